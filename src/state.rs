//! A session's state with other parts.

use datafusion::execution::{SessionState, SessionStateBuilder};

/// Builds a state anew with what is changed of the former; everything else is as it was.
pub(crate) fn rebuild(
    state: &mut SessionState,
    change: impl FnOnce(&SessionState, SessionStateBuilder) -> SessionStateBuilder,
) {
    let creates_catalog = state.config().options().catalog.create_default_catalog_and_schema;
    *state = change(state, SessionStateBuilder::new_from_existing(state.clone())).build();
    // A builder turns it off, because the state has its catalog; the setting is the host's.
    state.config_mut().options_mut().catalog.create_default_catalog_and_schema = creates_catalog;
}

//! What a session may do to come by a model, and whom it tells of what happens meanwhile.
//!
//! Settings belong to whoever writes SQL: `SET` changes each of them. An [`Access`] belongs to the host, which gives it when it
//! registers, and no statement changes it. It goes along wherever files of a model are looked for, so that nothing is read
//! or fetched, and nobody hears of it, but by the rules of the session that asked.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Error;
use crate::files::Stores;

/// What a session may do to come by a model, and whom it tells of what happens meanwhile.
///
/// By default everything is allowed and nobody is told. A host gives another one to [`register_as`](crate::register_as),
/// and no SQL of that session undoes it:
///
/// ```
/// use datafusion::prelude::SessionContext;
/// use datafusion_embed::{Access, EmbedOptions, Event, register_as};
///
/// let access = Access::default().with_directories(false).with_hub(false).with_events(|event| match event {
///     Event::ModelWarning(line) | Event::CacheTrouble(line) => eprintln!("{line}"),
///     _ => {}
/// });
/// let ctx = SessionContext::new();
/// register_as(&ctx, EmbedOptions::default(), access)?;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let error = ctx.sql("SELECT embed('x', '/home/me/model')").await.unwrap_err();
/// assert!(error.to_string().contains("this host does not allow model directories"));
/// # });
/// # datafusion::error::Result::<()>::Ok(())
/// ```
#[derive(Clone)]
pub struct Access {
    offline: bool,
    directories: bool,
    hub: bool,
    /// Those that a model may come from.
    stores: Stores,
    /// The model of the host's own options.
    own_model: Option<Arc<str>>,
    sink: Option<Arc<Sink>>,
}

/// Who is told, shared by the clones of an [`Access`].
struct Sink {
    tell: Box<dyn Fn(&Event) + Send + Sync>,
    /// What was told and is not to be told again.
    told: Mutex<BTreeSet<String>>,
}

/// What happens in the library while a query runs and is no result of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A model's file comes from the hub, told by the thread that waits for it.
    Download(Download),
    /// One line on a model that is used and whose files leave open how it makes its vectors. Each line comes once.
    ModelWarning(String),
    /// One line on a cache that cannot be used any longer, by a full disk for one: the query goes on without it. It comes once
    /// for each folder.
    CacheTrouble(String),
}

/// How far the download of one file is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Download {
    /// Path of the file inside the model.
    pub file: String,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes of the whole file, where the hub says.
    pub total: Option<u64>,
    /// Whether this is the file's last report.
    pub done: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self { offline: false, directories: true, hub: true, stores: Stores::default(), own_model: None, sink: None }
    }
}

impl Access {
    /// Whether the network is never touched, whatever `embed.offline` says. `HF_HUB_OFFLINE=1` does the same.
    #[must_use]
    pub fn with_offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// Whether a model may be named by its directory. Where not, no directory is looked for. The model of the options that
    /// the host registers with is its own choice and stays allowed, under that very name.
    #[must_use]
    pub fn with_directories(self, directories: bool) -> Self {
        Self { directories, ..self }
    }

    /// Whether a model may be named by its id on the hub, be it in the cache or still to be fetched. The model of the options
    /// that the host registers with is its own choice and stays allowed, under that very name.
    #[must_use]
    pub fn with_hub(self, hub: bool) -> Self {
        Self { hub, ..self }
    }

    /// From which stores a model may come, by its address; from none by default. A [`session`](crate::session) has those of its
    /// statements.
    #[must_use]
    pub fn with_stores(self, stores: Stores) -> Self {
        Self { stores, ..self }
    }

    /// Tells `sink` of every [`Event`]: the library itself prints nothing. There is one sink, the last that was given. It may
    /// be called by several threads at once, and whoever calls it waits.
    #[must_use]
    pub fn with_events(self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let sink = Sink { tell: Box::new(sink), told: Mutex::default() };
        Self { sink: Some(Arc::new(sink)), ..self }
    }

    /// Reads what is on this machine, and tells nobody.
    pub(crate) fn local() -> Self {
        Self::default().with_offline(true)
    }

    /// The same with the model that the host itself chose.
    pub(crate) fn with_own_model(self, name: &str) -> Self {
        Self { own_model: Some(name.into()), ..self }
    }

    /// The same for a call that is to stay offline, if the session is not so already.
    pub(crate) fn and_offline(self, offline: bool) -> Self {
        Self { offline: self.offline || offline, ..self }
    }

    /// Whether the network is not to be touched.
    #[cfg(any(test, feature = "hub", feature = "stores"))]
    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    /// The stores that a model of this name may come from.
    #[cfg(feature = "stores")]
    pub(crate) fn stores(&self, name: &str) -> Stores {
        if self.is_own(name) { Stores::all() } else { self.stores.clone() }
    }

    /// Whether this name may stand for a directory.
    pub(crate) fn allows_directory(&self, name: &str) -> bool {
        self.directories || self.is_own(name)
    }

    /// Whether this name may stand for a model on the hub.
    pub(crate) fn allows_hub(&self, name: &str) -> bool {
        self.hub || self.is_own(name)
    }

    fn is_own(&self, name: &str) -> bool {
        self.own_model.as_deref() == Some(name)
    }

    /// The error for a model that would have to come from where the host does not allow it.
    pub(crate) fn refused(&self, name: &str) -> Error {
        let what = match (self.directories, self.hub) {
            (false, false) => "model directories and models of the hub",
            (false, true) => "model directories",
            _ => "models of the hub",
        };
        Error::Setting(format!("model \"{name}\": this host does not allow {what}; ask whoever runs it"))
    }

    /// Tells what happens.
    pub(crate) fn tell(&self, event: &Event) {
        if let Some(sink) = &self.sink {
            (sink.tell)(event);
        }
    }

    /// Tells what happens, unless that was told of this subject before.
    pub(crate) fn tell_once(&self, subject: &str, event: &Event) {
        let Some(sink) = &self.sink else { return };
        // Not held while somebody is told: he may ask for another model.
        let is_new = sink.told.lock().insert(subject.to_owned());
        if is_new {
            self.tell(event);
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offline, directories, hub, stores, own_model, sink } = self;
        let mut shown = f.debug_struct("Access");
        shown.field("offline", offline).field("directories", directories).field("hub", hub);
        shown.field("stores", stores);
        shown.field("own_model", own_model).field("has_sink", &sink.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_once_is_told_once_by_all_clones_of_one_access() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&heard);
        let access = Access::default().with_events(move |event| sink.lock().push(event.clone()));
        let warning = |text: &str| Event::ModelWarning(text.to_owned());
        for access in [&access, &access.clone().and_offline(true), &Access::default()] {
            access.tell_once("a", &warning("a"));
            access.tell_once("b", &warning("b"));
        }
        access.tell(&warning("a"));
        assert_eq!(*heard.lock(), ["a", "b", "a"].map(warning));
    }

    #[test]
    fn only_the_hosts_own_name_goes_past_what_is_not_allowed() {
        let access = Access::default().with_hub(false).with_directories(false).with_own_model("acme/own");
        assert!(access.allows_hub("acme/own") && access.allows_directory("acme/own"));
        for other in ["acme/own@main", "acme/other", "acme/own/", ""] {
            assert!(!access.allows_hub(other) && !access.allows_directory(other), "{other}");
        }
        assert!(access.clone().with_hub(true).allows_hub("acme/other"));
        assert!(!access.and_offline(false).is_offline());
        assert!(Access::local().and_offline(false).is_offline(), "no call undoes it");
    }
}

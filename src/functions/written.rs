//! A function as it can be written down: its name, and what decides what it gives.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::ScalarUDF;

use super::embed::Embed;
use super::embed_chunks::EmbedChunks;
use super::embed_tokens::EmbedTokens;
use super::literals::Literals;
use super::settings::Settings;
use crate::engine::{Call, Identity};
use crate::model::Role;

/// A function of ours without the session that it was planned in.
#[derive(Debug)]
pub(crate) enum WrittenFunction {
    Embed(WrittenCall),
    EmbedChunks(WrittenCall),
    EmbedTokens(WrittenCall),
}

/// What decides what a function gives that asks a model.
#[derive(Debug)]
pub(crate) struct WrittenCall {
    /// Of a function over literals: those of its plan, as far as their vectors are there.
    pub(crate) literals: Option<Vec<(Call, String, ScalarValue)>>,
    /// Where the second argument names no model.
    pub(crate) call: Call,
    /// The models that calls were planned with, by the names that they have.
    pub(crate) identities: HashMap<String, Identity>,
}

impl WrittenFunction {
    /// `None` for one that its name is enough for, and for a function of somebody else.
    pub(crate) fn of(function: &ScalarUDF) -> Option<Self> {
        let inner = function.inner();
        if let Some(embed) = inner.downcast_ref::<Embed>() {
            let written = WrittenCall::new(embed.settings(), embed.call(None).role);
            let literals = embed.literals().map(|literals| literals.all());
            return Some(Self::Embed(WrittenCall { literals, ..written }));
        }
        if let Some(embed_chunks) = inner.downcast_ref::<EmbedChunks>() {
            return Some(Self::EmbedChunks(WrittenCall::new(&embed_chunks.settings, Role::Document)));
        }
        let embed_tokens = inner.downcast_ref::<EmbedTokens>()?;
        Some(Self::EmbedTokens(WrittenCall::new(&embed_tokens.settings, Role::Plain)))
    }

    /// The function, with a session made anew: it runs in that of the configuration that it finds there.
    pub(crate) fn read(self) -> ScalarUDF {
        match self {
            Self::Embed(WrittenCall { call, identities, literals }) => {
                let embed = Embed::new(call.role, Settings::written(&call, identities));
                match literals {
                    Some(literals) => embed.over(Arc::new(Literals::read(literals))).into(),
                    None => embed.into(),
                }
            }
            Self::EmbedChunks(WrittenCall { call, identities, .. }) => {
                EmbedChunks { settings: Settings::written(&call, identities) }.into()
            }
            Self::EmbedTokens(WrittenCall { call, identities, .. }) => {
                EmbedTokens { settings: Settings::written(&call, identities) }.into()
            }
        }
    }
}

impl WrittenCall {
    fn new(settings: &Settings, role: Role) -> Self {
        Self { call: settings.call(role, None), identities: settings.identities(), literals: None }
    }
}

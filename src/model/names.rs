//! What the tensors of a checkpoint are called, family by family.

/// What the tensors of a checkpoint are called, less `.weight` and `.bias` where there are both.
#[derive(Debug)]
pub(crate) struct Names {
    /// The table of words, under the first of these names that the file has.
    pub(crate) words: &'static [&'static str],
    pub(crate) positions: &'static str,
    pub(crate) types: &'static str,
    /// After the tables, if there is one.
    pub(crate) embeddings_norm: Option<&'static str>,
    /// From the width of the tables to the hidden width.
    pub(crate) projection: &'static str,
    /// The table that [`Distance::Buckets`] reads.
    pub(crate) buckets: &'static str,
    /// What comes before a layer's number.
    pub(crate) layer: &'static str,
    /// One tensor for all, or three.
    pub(crate) qkv: &'static [&'static str],
    /// Of queries and of keys: over a head, or over all of them.
    pub(crate) query_key_norms: Option<QueryKeyNorms>,
    pub(crate) out: &'static str,
    pub(crate) attention_norms: Norms,
    /// One tensor, or the gate and what it lets through.
    pub(crate) wide: &'static [&'static str],
    /// Whether one tensor for both has the gate last.
    pub(crate) gate_last: bool,
    pub(crate) narrow: &'static str,
    pub(crate) feed_forward_norms: Norms,
    /// After the last layer, if there is one.
    pub(crate) last_norm: Option<&'static str>,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryKeyNorms {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    /// Whether each head is normalised by itself.
    pub(crate) by_head: bool,
}

/// Where a half of a layer normalises: `after(x + inside(f(before(x))))`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norms {
    pub(crate) before: Option<&'static str>,
    pub(crate) inside: Option<&'static str>,
    /// Whether `x` is added before `inside` already: `after(x + inside(x + f(before(x))))`.
    pub(crate) twice: bool,
    pub(crate) after: Option<&'static str>,
}

impl Norms {
    /// As in BERT.
    pub(crate) const fn after(name: &'static str) -> Self {
        Self { before: None, inside: None, twice: false, after: Some(name) }
    }

    /// As in most later models.
    pub(crate) const fn before(name: &'static str) -> Self {
        Self { before: Some(name), inside: None, twice: false, after: None }
    }
}

pub(super) const BERT: Names = Names {
    words: &["embeddings.word_embeddings.weight"],
    positions: "embeddings.position_embeddings.weight",
    types: "embeddings.token_type_embeddings.weight",
    embeddings_norm: Some("embeddings.LayerNorm"),
    projection: "embeddings_project",
    buckets: "",
    layer: "encoder.layer.",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    query_key_norms: None,
    out: "attention.output.dense",
    attention_norms: Norms::after("attention.output.LayerNorm"),
    wide: &["intermediate.dense"],
    gate_last: false,
    narrow: "output.dense",
    feed_forward_norms: Norms::after("output.LayerNorm"),
    last_norm: None,
};

pub(super) const MPNET: Names = Names {
    buckets: "encoder.relative_attention_bias.weight",
    qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    out: "attention.attn.o",
    attention_norms: Norms::after("attention.LayerNorm"),
    ..BERT
};

pub(super) const DISTILBERT: Names = Names {
    layer: "transformer.layer.",
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    attention_norms: Norms::after("sa_layer_norm"),
    wide: &["ffn.lin1"],
    narrow: "ffn.lin2",
    feed_forward_norms: Norms::after("output_layer_norm"),
    ..BERT
};

pub(super) const JINA: Names =
    Names { wide: &["mlp.gated_layers"], narrow: "mlp.wo", feed_forward_norms: Norms::after("mlp.layernorm"), ..BERT };

pub(super) const JINA_QK: Names = Names {
    query_key_norms: Some(QueryKeyNorms {
        query: "attention.self.layer_norm_q",
        key: "attention.self.layer_norm_k",
        by_head: false,
    }),
    attention_norms: Norms { inside: Some("attention.output.LayerNorm"), twice: true, ..Norms::after("layer_norm_1") },
    wide: &["mlp.up_gated_layer"],
    gate_last: true,
    narrow: "mlp.down_layer",
    feed_forward_norms: Norms::after("layer_norm_2"),
    ..BERT
};

pub(super) const NOMIC_REMOTE: Names = Names {
    embeddings_norm: Some("emb_ln"),
    layer: "encoder.layers.",
    qkv: &["attn.Wqkv"],
    out: "attn.out_proj",
    attention_norms: Norms::after("norm1"),
    wide: &["mlp.fc12", "mlp.fc11"],
    narrow: "mlp.fc2",
    feed_forward_norms: Norms::after("norm2"),
    ..BERT
};

pub(super) const GTE: Names = Names {
    layer: "layers.",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.o_proj",
    attention_norms: Norms::after("post_attention_layernorm"),
    wide: &["mlp.gate_proj", "mlp.up_proj"],
    narrow: "mlp.down_proj",
    feed_forward_norms: Norms::after("post_mlp_layernorm"),
    ..BERT
};

pub(super) const NOMIC: Names = GTE;

pub(super) const NEW: Names = Names {
    layer: "encoder.layer.",
    qkv: &["attention.qkv_proj"],
    out: "attention.o_proj",
    attention_norms: Norms::after("attn_ln"),
    wide: &["mlp.up_gate_proj"],
    gate_last: true,
    feed_forward_norms: Norms::after("mlp_ln"),
    ..GTE
};

pub(super) const MODERNBERT: Names = Names {
    words: &["embeddings.tok_embeddings.weight"],
    embeddings_norm: Some("embeddings.norm"),
    layer: "layers.",
    qkv: &["attn.Wqkv"],
    out: "attn.Wo",
    attention_norms: Norms::before("attn_norm"),
    wide: &["mlp.Wi"],
    narrow: "mlp.Wo",
    feed_forward_norms: Norms::before("mlp_norm"),
    last_norm: Some("final_norm"),
    ..BERT
};

pub(super) const EUROBERT: Names = Names {
    words: &["embed_tokens.weight"],
    embeddings_norm: None,
    attention_norms: Norms::before("input_layernorm"),
    feed_forward_norms: Norms::before("post_attention_layernorm"),
    last_norm: Some("norm"),
    ..GTE
};

pub(super) const QWEN3: Names = Names {
    query_key_norms: Some(QueryKeyNorms { query: "self_attn.q_norm", key: "self_attn.k_norm", by_head: true }),
    ..EUROBERT
};

pub(super) const GEMMA3: Names = Names {
    attention_norms: Norms { inside: Some("post_attention_layernorm"), ..Norms::before("input_layernorm") },
    feed_forward_norms: Norms {
        inside: Some("post_feedforward_layernorm"),
        ..Norms::before("pre_feedforward_layernorm")
    },
    ..QWEN3
};

pub(super) const T5: Names = Names {
    words: &["shared.weight", "encoder.embed_tokens.weight"],
    embeddings_norm: None,
    buckets: "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    layer: "encoder.block.",
    qkv: &["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"],
    out: "layer.0.SelfAttention.o",
    attention_norms: Norms::before("layer.0.layer_norm"),
    wide: &["layer.1.DenseReluDense.wi"],
    narrow: "layer.1.DenseReluDense.wo",
    feed_forward_norms: Norms::before("layer.1.layer_norm"),
    last_norm: Some("encoder.final_layer_norm"),
    ..BERT
};

pub(super) const T5_GATED: Names =
    Names { wide: &["layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"], ..T5 };

pub(super) const STATIC: Names = Names { words: &["embedding.weight", "embeddings"], embeddings_norm: None, ..BERT };

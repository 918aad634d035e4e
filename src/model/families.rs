//! `config.json` -> [`Architecture`], by `model_type`: what each family calls its sizes, and where its defaults
//! differ. What a missing key means is what it means in transformers.

use serde_json::{Value, json};

use super::architecture::{
    Architecture, AttentionShape, Distance, Embeddings, FeedForward, LayerShape, NormShape, Positions,
};
use super::config::{Config, MAX_SIZE};
use super::names::{self, Names};
use super::rope::RotaryShape;
use crate::error::Result;
use crate::kernels::{Activation, Reach};

/// Every `model_type` that runs.
const KNOWN: &str = "bert, camembert, distilbert, electra, eurobert, gemma3_text, gte, jina_bert, modernbert, mpnet, new, \
                     nomic_bert, qwen3, roberta, t5, xlm-roberta";
const ACTIVATIONS: &str =
    "gelu, gelu_fast, gelu_new, gelu_python, gelu_pytorch_tanh, quick_gelu, relu, silu, swish, tanh";
/// Most layers and heads: a damaged file must not become a huge allocation.
const MOST_PARTS: usize = 4096;
/// Longest texts of models that have no limit of their own, and most positions of rotary positions.
pub(super) const MOST_POSITIONS: usize = 1 << 17;
/// Most values of a table that is computed and not read: of cosines, or of what is added for a distance. 64 MiB.
const MOST_COMPUTED: usize = 1 << 24;

/// Reads an encoder's description.
pub(super) fn read(config: &Config) -> Result<Architecture> {
    if let Some(quantization) = config.value("quantization_config") {
        let shown = quantization.to_string();
        return Err(config.unsupported("quantization_config", &shown, "none: weights in f32, f16 or bf16"));
    }
    let name = config.text("model_type")?.unwrap_or("missing");
    let architecture = match name {
        "bert" if config.text("position_embedding_type")? == Some("alibi") => jina_bert(config)?,
        "bert" => bert(config)?,
        "camembert" | "roberta" | "xlm-roberta" => roberta(config)?,
        "distilbert" => distilbert(config)?,
        "electra" => electra(config)?,
        "eurobert" => eurobert(config)?,
        "gemma3_text" => gemma3(config)?,
        "gte" => gte(config)?,
        "jina_bert" => jina_bert(config)?,
        "modernbert" => modernbert(config)?,
        "mpnet" => mpnet(config)?,
        "new" => new(config)?,
        "nomic_bert" => nomic_bert(config)?,
        "qwen3" => qwen3(config)?,
        "t5" => t5(config)?,
        other => return Err(config.unsupported("model_type", other, KNOWN)),
    };
    let causal = architecture.layers.iter().all(|layer| layer.reach.after == 0);
    if config.flag("is_causal", causal)? != causal {
        return Err(config.unsupported("is_causal", &(!causal).to_string(), &causal.to_string()));
    }
    let architecture = Architecture { name: name.to_owned(), ..architecture };
    check_tables(config, &architecture)?;
    Ok(architecture)
}

/// Refuses tables that are larger than those of any model: what the weights do not have to be as large as.
pub(super) fn check_tables(config: &Config, architecture: &Architecture) -> Result<()> {
    let Architecture { attention, rotary, positions, .. } = architecture;
    let pairs = rotary.iter().map(|rotary| rotary.frequencies.len()).max().unwrap_or(0);
    if pairs * positions > MOST_COMPUTED {
        let known = format!("up to {} for texts of {positions} tokens", 2 * MOST_COMPUTED / positions);
        return Err(config.unsupported("head_dim", &(2 * pairs).to_string(), &known));
    }
    match attention.distance {
        Distance::Buckets { farthest, .. } if farthest * attention.heads > MOST_COMPUTED / 2 => {
            let known = format!("up to {} for {} heads", MOST_COMPUTED / 2 / attention.heads, attention.heads);
            Err(config.unsupported("relative_attention_max_distance", &farthest.to_string(), &known))
        }
        _ => Ok(()),
    }
}

/// A table of words and the average of its rows: StaticEmbedding and model2vec.
pub(super) fn fixed(vocabulary: usize, width: usize) -> Architecture {
    Architecture {
        name: "static".to_owned(),
        vocabulary,
        hidden: width,
        embeddings: Embeddings { width, scale: 1.0, types: 0, positions: None },
        norm: LAYER_NORM,
        attention: heads(width, 1),
        feed_forward: plain_feed_forward(width, Activation::Relu),
        layers: Vec::new(),
        rotary: Vec::new(),
        positions: MAX_SIZE,
        names: &[names::STATIC],
    }
}

// ---- BERT and those with its layers ----

fn bert(config: &Config) -> Result<Architecture> {
    config.expect("position_embedding_type", &json!("absolute"))?;
    refuse_decoder(config)?;
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 768, 12, 3072)?;
    sizes.check(config)?;
    let vocabulary = config.size(&["vocab_size"], 30_522)?;
    let rows = config.size(&["max_position_embeddings"], 512)?;
    let types = config.size(&["type_vocab_size"], 2)?;
    Ok(Architecture {
        embeddings: learned(sizes.hidden, types, Positions { rows, first: 0, uncounted: None }),
        positions: rows,
        norm: layer_norm(config, "layer_norm_eps", 1e-12)?,
        feed_forward: plain_feed_forward(sizes.width, activation(config, "hidden_act", "gelu")?),
        ..encoder(&sizes, vocabulary, &[names::BERT])
    })
}

/// BERT with positions that are counted from the padding token on, which is passed over wherever it stands in a text.
fn roberta(config: &Config) -> Result<Architecture> {
    let plain = bert(config)?;
    let padding = config.count("pad_token_id", 0)?.unwrap_or(1);
    counted_positions(config, plain, padding)
}

fn counted_positions(config: &Config, plain: Architecture, padding: usize) -> Result<Architecture> {
    let rows = plain.positions;
    let Some(positions) = rows.checked_sub(padding + 1).filter(|positions| *positions > 0) else {
        let known = format!("more than pad_token_id + 1 = {}", padding + 1);
        return Err(config.unsupported("max_position_embeddings", &rows.to_string(), &known));
    };
    let table = Positions { rows, first: padding + 1, uncounted: Some(padding as u32) };
    // Where every text begins with that token, it has room for one more.
    let positions = positions + usize::from(config.count("bos_token_id", 0)?.unwrap_or(0) == padding);
    Ok(Architecture { embeddings: Embeddings { positions: Some(table), ..plain.embeddings }, positions, ..plain })
}

fn electra(config: &Config) -> Result<Architecture> {
    config.expect("position_embedding_type", &json!("absolute"))?;
    refuse_decoder(config)?;
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 256, 12, 1024)?;
    let sizes = Sizes { heads: config.size(&["num_attention_heads"], 4)?, ..sizes };
    sizes.check(config)?;
    let rows = config.size(&["max_position_embeddings"], 512)?;
    let types = config.size(&["type_vocab_size"], 2)?;
    let width = config.width(&["embedding_size"], 128)?;
    Ok(Architecture {
        embeddings: learned(width, types, Positions { rows, first: 0, uncounted: None }),
        positions: rows,
        norm: layer_norm(config, "layer_norm_eps", 1e-12)?,
        feed_forward: plain_feed_forward(sizes.width, activation(config, "hidden_act", "gelu")?),
        ..encoder(&sizes, config.size(&["vocab_size"], 30_522)?, &[names::BERT])
    })
}

fn mpnet(config: &Config) -> Result<Architecture> {
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 768, 12, 3072)?;
    sizes.check(config)?;
    let rows = config.size(&["max_position_embeddings"], 512)?;
    let buckets = config.size(&["relative_attention_num_buckets"], 32)?;
    // transformers computes buckets for a table of 32 rows, whatever the file says.
    if buckets < 32 {
        return Err(config.unsupported("relative_attention_num_buckets", &buckets.to_string(), "32 or more"));
    }
    let plain = Architecture {
        embeddings: learned(sizes.hidden, 0, Positions { rows, first: 0, uncounted: None }),
        positions: rows,
        norm: layer_norm(config, "layer_norm_eps", 1e-12)?,
        attention: AttentionShape {
            distance: Distance::Buckets { rows: buckets, buckets: 32, farthest: 128 },
            ..heads(sizes.hidden, sizes.heads)
        },
        feed_forward: plain_feed_forward(sizes.width, activation(config, "hidden_act", "gelu")?),
        ..encoder(&sizes, config.size(&["vocab_size"], 30_527)?, &[names::MPNET])
    };
    // 1 is written in the model's code and not in its configuration.
    counted_positions(config, plain, 1)
}

fn distilbert(config: &Config) -> Result<Architecture> {
    let keys = SizeKeys { hidden: "dim", layers: "n_layers", heads: "n_heads", width: "hidden_dim" };
    let sizes = Sizes::read(config, &keys, 768, 6, 3072)?;
    let sizes = Sizes { heads: config.size(&["n_heads"], 12)?, ..sizes };
    sizes.check(config)?;
    let rows = config.size(&["max_position_embeddings"], 512)?;
    Ok(Architecture {
        embeddings: learned(sizes.hidden, 0, Positions { rows, first: 0, uncounted: None }),
        positions: rows,
        feed_forward: plain_feed_forward(sizes.width, activation(config, "activation", "gelu")?),
        ..encoder(&sizes, config.size(&["vocab_size"], 30_522)?, &[names::DISTILBERT])
    })
}

/// Jina's second generation: ALiBi, and a gate in the feed-forward part.
fn jina_bert(config: &Config) -> Result<Architecture> {
    config.expect("position_embedding_type", &json!("alibi"))?;
    refuse_decoder(config)?;
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 768, 12, 3072)?;
    sizes.check(config)?;
    let gate = match config.text("feed_forward_type")?.unwrap_or("geglu") {
        "geglu" => Activation::Gelu,
        "reglu" => Activation::Relu,
        other => return Err(config.unsupported("feed_forward_type", other, "geglu, reglu")),
    };
    let types = config.size(&["type_vocab_size"], 2)?;
    Ok(Architecture {
        embeddings: Embeddings { types, ..words(sizes.hidden) },
        positions: config.size(&["max_position_embeddings"], 512)?,
        norm: layer_norm(config, "layer_norm_eps", 1e-12)?,
        attention: AttentionShape {
            distance: Distance::Slopes(slopes(sizes.heads)),
            ..heads(sizes.hidden, sizes.heads)
        },
        feed_forward: FeedForward { gated: true, wide_bias: false, ..plain_feed_forward(sizes.width, gate) },
        ..encoder(&sizes, config.size(&["vocab_size"], 30_522)?, &[names::JINA_QK, names::JINA])
    })
}

/// ALiBi's slopes: powers of one root of 2; where the number of heads is no power of two, every other one of the next.
fn slopes(heads: usize) -> Vec<f32> {
    let of_power = |n: usize| (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2() as f32);
    let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    of_power(whole).chain(of_power(2 * whole).step_by(2)).take(heads).collect()
}

// ---- BERT with rotary positions and gates ----

fn nomic_bert(config: &Config) -> Result<Architecture> {
    let keys = SizeKeys { hidden: "n_embd", layers: "n_layer", heads: "n_head", width: "n_inner" };
    let sizes = Sizes::read(config, &keys, 768, 12, 3072)?;
    for (key, known) in [
        ("prenorm", json!(false)),
        ("parallel_block", json!(false)),
        ("causal", json!(false)),
        ("use_rms_norm", json!(false)),
        ("rotary_emb_interleaved", json!(false)),
        ("moe_every_n_layers", json!(0)),
    ] {
        config.expect(key, &known)?;
    }
    for key in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        if let Some(value) = config.value(key) {
            return Err(config.unsupported(key, &value.to_string(), "null"));
        }
    }
    let (gate, known) = (config.text("activation_function")?, "swiglu, geglu");
    let gate = match gate {
        None => activation(config, "hidden_act", "silu")?,
        Some("swiglu") => Activation::Silu,
        Some("geglu") => Activation::Gelu,
        Some(other) => return Err(config.unsupported("activation_function", other, known)),
    };
    let head = head_of(config, &sizes)?;
    let qkv_bias = config.flag("qkv_proj_bias", false)?;
    let theta = positive(config, &["rope_theta", "rotary_emb_base"], 1000.0)?;
    let fraction = config.number("rotary_emb_fraction")?.unwrap_or(1.0);
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(config.unsupported("rotary_emb_fraction", &fraction.to_string(), "more than 0, up to 1"));
    }
    let rotary = match config.value("rope_parameters").or_else(|| config.value("rope_scaling")) {
        Some(_) => RotaryShape::read(config, None, head, theta)?,
        None => RotaryShape::of(config, theta, (head as f64 * fraction) as usize / 2 * 2)?,
    };
    if rotary.frequencies.is_empty() {
        let known = format!("at least {} for heads of {head}: one pair", 2.0 / head as f64);
        return Err(config.unsupported("rotary_emb_fraction", &fraction.to_string(), &known));
    }
    let types = config.count("type_vocab_size", 0)?.unwrap_or(2);
    let epsilon = config.epsilon(&["layer_norm_eps", "layer_norm_epsilon"], 1e-12)?;
    Ok(Architecture {
        embeddings: Embeddings { types, ..words(sizes.hidden) },
        positions: config.size(&["max_position_embeddings", "n_positions"], 2048)?.min(MOST_POSITIONS),
        norm: NormShape { epsilon, ..LAYER_NORM },
        attention: AttentionShape { bias: qkv_bias, out_bias: qkv_bias, ..heads_of(sizes.heads, head) },
        feed_forward: FeedForward {
            gated: true,
            wide_bias: config.flag("mlp_fc1_bias", false)?,
            narrow_bias: config.flag("mlp_fc2_bias", false)?,
            ..plain_feed_forward(sizes.width, gate)
        },
        ..turned(encoder(&sizes, config.size(&["vocab_size"], 30_528)?, &[names::NOMIC_REMOTE, names::NOMIC]), rotary)
    })
}

/// Alibaba's, in the format of its own code.
fn new(config: &Config) -> Result<Architecture> {
    config.expect("position_embedding_type", &json!("rope"))?;
    config.expect("logn_attention_scale", &json!(false))?;
    config.expect("layer_norm_type", &json!("layer_norm"))?;
    alibaba(config, 10_000.0, 30_528, 2048)
}

/// The same in the format of transformers.
fn gte(config: &Config) -> Result<Architecture> {
    alibaba(config, 160_000.0, 250_048, 8192)
}

fn alibaba(config: &Config, theta: f64, vocabulary: usize, positions: usize) -> Result<Architecture> {
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 768, 12, 3072)?;
    let head = head_of(config, &sizes)?;
    let rotary = RotaryShape::read(config, None, head, positive(config, &["rope_theta"], theta)?)?;
    let types = config.count("type_vocab_size", 0)?.unwrap_or(1);
    let gate = activation(config, "hidden_act", "gelu")?;
    Ok(Architecture {
        embeddings: Embeddings { types, ..words(sizes.hidden) },
        positions: config.size(&["max_position_embeddings"], positions)?.min(MOST_POSITIONS),
        norm: layer_norm(config, "layer_norm_eps", 1e-12)?,
        attention: heads_of(sizes.heads, head),
        feed_forward: FeedForward { gated: true, wide_bias: false, ..plain_feed_forward(sizes.width, gate) },
        ..turned(encoder(&sizes, config.size(&["vocab_size"], vocabulary)?, &[names::NEW, names::GTE]), rotary)
    })
}

fn modernbert(config: &Config) -> Result<Architecture> {
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 768, 22, 1152)?;
    let sizes = Sizes { heads: config.size(&["num_attention_heads"], 12)?, ..sizes };
    sizes.check(config)?;
    let head = sizes.hidden / sizes.heads;
    check_head(config, head)?;
    let local = config.count("local_attention", 0)?.unwrap_or(128) / 2;
    let every = config.size(&["global_attn_every_n_layers"], 3)?;
    let local = Reach { before: local, after: local };
    let layers = by_kind(config, sizes.layers, local, |layer| layer % every != 0)?;
    let rotary = vec![
        rotary_of_kind(config, "full_attention", head, "global_rope_theta", 160_000.0)?,
        rotary_of_kind(config, "sliding_attention", head, "local_rope_theta", 10_000.0)?,
    ];
    let bias = config.flag("attention_bias", false)?;
    let feed_forward_bias = config.flag("mlp_bias", false)?;
    let gate = activation(config, "hidden_activation", "gelu")?;
    let layers = layers.into_iter().enumerate().map(|(i, layer)| LayerShape { bare: i == 0, ..layer }).collect();
    Ok(Architecture {
        positions: config.size(&["max_position_embeddings"], 8192)?.min(MOST_POSITIONS),
        norm: NormShape { bias: config.flag("norm_bias", false)?, ..layer_norm(config, "norm_eps", 1e-5)? },
        attention: AttentionShape { bias, out_bias: bias, ..heads(sizes.hidden, sizes.heads) },
        feed_forward: FeedForward {
            gated: true,
            wide_bias: feed_forward_bias,
            narrow_bias: feed_forward_bias,
            ..plain_feed_forward(sizes.width, gate)
        },
        layers,
        rotary,
        ..encoder(&sizes, config.size(&["vocab_size"], 50_368)?, &[names::MODERNBERT])
    })
}

// ---- Those with the layers of a decoder ----

fn qwen3(config: &Config) -> Result<Architecture> {
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 4096, 32, 22_016)?;
    let key_heads = if config.is_null("num_key_value_heads") { sizes.heads } else { 32 };
    let key_heads = config.size(&["num_key_value_heads"], key_heads)?;
    let head = config.size(&["head_dim"], 128)?;
    let causal = config.flag("is_causal", true)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => Some(config.size(&["sliding_window"], 4096)?),
        false => None,
    };
    let first_windowed = config.count("max_window_layers", 0)?.unwrap_or(28);
    let local = match (window, causal) {
        (None, _) => reach(causal),
        (Some(window), true) => Reach { before: window - 1, after: 0 },
        (Some(window), false) => Reach { before: window, after: window },
    };
    let layers = by_kind(config, sizes.layers, local, |layer| window.is_some() && layer >= first_windowed)?;
    let layers = layers.into_iter().map(|layer| match layer.reach {
        Reach::WHOLE => LayerShape { reach: reach(causal), rotary: Some(0), ..layer },
        _ => LayerShape { rotary: Some(0), ..layer },
    });
    let bias = config.flag("attention_bias", false)?;
    let rotary = RotaryShape::read(config, None, head, positive(config, &["rope_theta"], 10_000.0)?)?;
    Ok(Architecture {
        positions: config.size(&["max_position_embeddings"], 32_768)?.min(MOST_POSITIONS),
        norm: root_mean_square(config, 1e-6)?,
        attention: grouped(config, &sizes, key_heads, head, bias)?,
        feed_forward: decoder_feed_forward(&sizes, activation(config, "hidden_act", "silu")?, false),
        layers: layers.collect(),
        ..turned(encoder(&sizes, config.size(&["vocab_size"], 151_936)?, &[names::QWEN3]), rotary)
    })
}

fn gemma3(config: &Config) -> Result<Architecture> {
    if let Some(cap) = config.value("attn_logit_softcapping") {
        return Err(config.unsupported("attn_logit_softcapping", &cap.to_string(), "null"));
    }
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 2304, 26, 9216)?;
    let sizes = Sizes { heads: config.size(&["num_attention_heads"], 8)?, ..sizes };
    let key_heads = config.size(&["num_key_value_heads"], 4)?;
    let head = config.size(&["head_dim"], 256)?;
    let both_ways = config.flag("use_bidirectional_attention", false)?;
    let window = config.size(&["sliding_window"], 4096)?;
    // Half of the window lies on either side.
    let local = match both_ways {
        true => Reach { before: window / 2, after: window / 2 },
        false => Reach { before: window - 1, after: 0 },
    };
    let pattern = config.size(&["sliding_window_pattern"], 6)?;
    let layers = by_kind(config, sizes.layers, local, |layer| (layer + 1) % pattern != 0)?;
    let layers = layers.into_iter().map(|layer| match layer.reach {
        Reach::WHOLE => LayerShape { reach: reach(!both_ways), ..layer },
        _ => layer,
    });
    let rotary = vec![
        rotary_of_kind(config, "full_attention", head, "rope_theta", 1_000_000.0)?,
        // Scaling is for the layers that see the whole text.
        match config.object("rope_parameters")? {
            Some(_) => rotary_of_kind(config, "sliding_attention", head, "rope_local_base_freq", 10_000.0)?,
            None => RotaryShape::of(config, config.positive("rope_local_base_freq")?.unwrap_or(10_000.0), head)?,
        },
    ];
    let bias = config.flag("attention_bias", false)?;
    let scale = positive(config, &["query_pre_attn_scalar"], 256.0)?.powf(-0.5) as f32;
    Ok(Architecture {
        embeddings: Embeddings { scale: (sizes.hidden as f64).sqrt() as f32, ..words(sizes.hidden) },
        positions: config.size(&["max_position_embeddings"], 131_072)?.min(MOST_POSITIONS),
        norm: NormShape { less_one: true, ..root_mean_square(config, 1e-6)? },
        attention: AttentionShape { scale, ..grouped(config, &sizes, key_heads, head, bias)? },
        feed_forward: decoder_feed_forward(
            &sizes,
            activation(config, "hidden_activation", "gelu_pytorch_tanh")?,
            false,
        ),
        layers: layers.collect(),
        rotary,
        ..encoder(&sizes, config.size(&["vocab_size"], 262_208)?, &[names::GEMMA3])
    })
}

fn eurobert(config: &Config) -> Result<Architecture> {
    let sizes = Sizes::read(config, &SizeKeys::COMMON, 768, 12, 3072)?;
    let key_heads = config.size(&["num_key_value_heads"], sizes.heads)?;
    let head = head_of(config, &sizes)?;
    let bias = config.flag("attention_bias", false)?;
    let rotary = RotaryShape::read(config, None, head, positive(config, &["rope_theta"], 10_000.0)?)?;
    let feed_forward_bias = config.flag("mlp_bias", false)?;
    Ok(Architecture {
        positions: config.size(&["max_position_embeddings"], 8192)?.min(MOST_POSITIONS),
        norm: root_mean_square(config, 1e-5)?,
        attention: grouped(config, &sizes, key_heads, head, bias)?,
        feed_forward: decoder_feed_forward(&sizes, activation(config, "hidden_act", "silu")?, feed_forward_bias),
        ..turned(encoder(&sizes, config.size(&["vocab_size"], 128_256)?, &[names::EUROBERT]), rotary)
    })
}

/// The encoder half of a T5.
fn t5(config: &Config) -> Result<Architecture> {
    let keys = SizeKeys { hidden: "d_model", layers: "num_layers", heads: "num_heads", width: "d_ff" };
    let sizes = Sizes::read(config, &keys, 512, 6, 2048)?;
    let sizes = Sizes { heads: config.size(&["num_heads"], 8)?, ..sizes };
    let projection = config.text("feed_forward_proj")?.unwrap_or("relu");
    let gate = projection.strip_prefix("gated-");
    let gated = config.flag("is_gated_act", gate.is_some())?;
    // What T5's authors call gelu is its approximation.
    let name = if projection == "gated-gelu" { "gelu_new" } else { gate.unwrap_or(projection) };
    let activation = activation(config, "dense_act_fn", name)?;
    let buckets = config.size(&["relative_attention_num_buckets"], 32)?;
    let farthest = config.size(&["relative_attention_max_distance"], 128)?;
    if buckets < 4 || farthest <= buckets / 4 || farthest > MOST_POSITIONS {
        let known = format!("more than a quarter of the {buckets} buckets, up to {MOST_POSITIONS}");
        return Err(config.unsupported("relative_attention_max_distance", &farthest.to_string(), &known));
    }
    let head = config.size(&["d_kv"], 64)?;
    if head > MOST_PARTS {
        return Err(config.unsupported("d_kv", &head.to_string(), &format!("1 to {MOST_PARTS}")));
    }
    let attention = AttentionShape {
        head,
        scale: 1.0,
        bias: false,
        out_bias: false,
        distance: Distance::Buckets { rows: buckets, buckets, farthest },
        ..heads(sizes.hidden, sizes.heads)
    };
    Ok(Architecture {
        positions: MOST_POSITIONS,
        norm: NormShape {
            epsilon: config.epsilon(&["layer_norm_epsilon"], 1e-6)?,
            centred: false,
            bias: false,
            ..LAYER_NORM
        },
        attention,
        feed_forward: FeedForward {
            gated,
            wide_bias: false,
            narrow_bias: false,
            ..plain_feed_forward(sizes.width, activation)
        },
        ..encoder(&sizes, config.size(&["vocab_size"], 32_128)?, if gated { &[names::T5_GATED] } else { &[names::T5] })
    })
}

// ---- What several families share ----

/// The sizes that every transformer has.
struct Sizes {
    hidden: usize,
    layers: usize,
    heads: usize,
    width: usize,
}

/// What a family calls them, beside the common names.
struct SizeKeys {
    hidden: &'static str,
    layers: &'static str,
    heads: &'static str,
    width: &'static str,
}

impl SizeKeys {
    const COMMON: Self = Self {
        hidden: "hidden_size",
        layers: "num_hidden_layers",
        heads: "num_attention_heads",
        width: "intermediate_size",
    };
}

impl Sizes {
    /// The default number of heads is that of layers, as long as a family does not say otherwise.
    fn read(config: &Config, keys: &SizeKeys, hidden: usize, layers: usize, width: usize) -> Result<Self> {
        let common = SizeKeys::COMMON;
        let sizes = Self {
            hidden: config.width(&[keys.hidden, common.hidden], hidden)?,
            layers: config.size(&[keys.layers, common.layers], layers)?,
            heads: config.size(&[keys.heads, common.heads], layers)?,
            width: config.size(&[keys.width, common.width], width)?,
        };
        for (key, parts) in [(keys.layers, sizes.layers), (keys.heads, sizes.heads)] {
            if parts > MOST_PARTS {
                return Err(config.unsupported(key, &parts.to_string(), &format!("1 to {MOST_PARTS}")));
            }
        }
        Ok(sizes)
    }

    /// Refuses heads that do not share the hidden width evenly.
    fn check(&self, config: &Config) -> Result<()> {
        if self.hidden.is_multiple_of(self.heads) {
            return Ok(());
        }
        let known = format!("a divisor of hidden_size {}", self.hidden);
        Err(config.unsupported("num_attention_heads", &self.heads.to_string(), &known))
    }
}

const LAYER_NORM: NormShape = NormShape { centred: true, bias: true, less_one: false, epsilon: 1e-12 };

/// An encoder as BERT has it, but for what a family changes.
fn encoder(sizes: &Sizes, vocabulary: usize, names: &'static [Names]) -> Architecture {
    let layer = LayerShape { reach: Reach::WHOLE, rotary: None, bare: false };
    Architecture {
        name: String::new(),
        vocabulary,
        hidden: sizes.hidden,
        embeddings: words(sizes.hidden),
        norm: LAYER_NORM,
        attention: heads(sizes.hidden, sizes.heads),
        feed_forward: plain_feed_forward(sizes.width, Activation::Gelu),
        layers: vec![layer; sizes.layers],
        rotary: Vec::new(),
        positions: MOST_POSITIONS,
        names,
    }
}

/// The same rotary positions in every layer.
fn turned(mut plain: Architecture, rotary: RotaryShape) -> Architecture {
    plain.layers.iter_mut().for_each(|layer| layer.rotary = Some(0));
    Architecture { rotary: vec![rotary], ..plain }
}

fn words(width: usize) -> Embeddings {
    Embeddings { width, scale: 1.0, types: 0, positions: None }
}

fn learned(width: usize, types: usize, positions: Positions) -> Embeddings {
    Embeddings { types, positions: Some(positions), ..words(width) }
}

fn heads(hidden: usize, heads: usize) -> AttentionShape {
    heads_of(heads, hidden / heads)
}

fn heads_of(heads: usize, head: usize) -> AttentionShape {
    let scale = 1.0 / (head as f32).sqrt();
    AttentionShape { heads, key_heads: heads, head, scale, bias: true, out_bias: true, distance: Distance::None }
}

/// Fewer heads of keys and values than of queries.
fn grouped(config: &Config, sizes: &Sizes, key_heads: usize, head: usize, bias: bool) -> Result<AttentionShape> {
    if !sizes.heads.is_multiple_of(key_heads) {
        let known = format!("a divisor of num_attention_heads {}", sizes.heads);
        return Err(config.unsupported("num_key_value_heads", &key_heads.to_string(), &known));
    }
    check_head(config, head)?;
    Ok(AttentionShape { key_heads, bias, out_bias: bias, ..heads_of(sizes.heads, head) })
}

/// `head_dim`, or the hidden width by the number of heads: an even number, for it is turned in pairs.
fn head_of(config: &Config, sizes: &Sizes) -> Result<usize> {
    if let Some(head) = config.count("head_dim", 1)? {
        check_head(config, head)?;
        return Ok(head);
    }
    sizes.check(config)?;
    let head = sizes.hidden / sizes.heads;
    check_head(config, head)?;
    Ok(head)
}

fn check_head(config: &Config, head: usize) -> Result<()> {
    if head > MOST_PARTS || head % 2 == 1 {
        let known = format!("an even number up to {MOST_PARTS}");
        return Err(config.unsupported("head_dim", &head.to_string(), &known));
    }
    Ok(())
}

fn plain_feed_forward(width: usize, activation: Activation) -> FeedForward {
    FeedForward { width, activation, gated: false, wide_bias: true, narrow_bias: true }
}

fn decoder_feed_forward(sizes: &Sizes, activation: Activation, bias: bool) -> FeedForward {
    FeedForward { width: sizes.width, activation, gated: true, wide_bias: bias, narrow_bias: bias }
}

fn reach(causal: bool) -> Reach {
    if causal { Reach { after: 0, ..Reach::WHOLE } } else { Reach::WHOLE }
}

/// Layers that see the whole text and layers that see a window, as `layer_types` says or else the family's pattern; the
/// former have the first kind of rotary positions, the latter the second.
fn by_kind(config: &Config, count: usize, local: Reach, pattern: impl Fn(usize) -> bool) -> Result<Vec<LayerShape>> {
    let Some(kinds) = config.value("layer_types") else {
        return Ok((0..count).map(|i| layer_of_kind(pattern(i), local)).collect());
    };
    let kinds = kinds.as_array().map(Vec::as_slice).unwrap_or_default();
    if kinds.len() < count {
        let known = format!("one for each of the {count} layers");
        return Err(config.unsupported("layer_types", &format!("{} entries", kinds.len()), &known));
    }
    kinds[..count].iter().map(|kind| Ok(layer_of_kind(is_local(config, kind)?, local))).collect()
}

/// Whether an entry of `layer_types` is a layer that sees a window.
fn is_local(config: &Config, kind: &Value) -> Result<bool> {
    match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(config.unsupported("layer_types", &kind.to_string(), "full_attention, sliding_attention")),
    }
}

fn layer_of_kind(is_local: bool, local: Reach) -> LayerShape {
    let reach = if is_local { local } else { Reach::WHOLE };
    LayerShape { reach, rotary: Some(usize::from(is_local)), bare: false }
}

/// Rotary positions of the layers of one kind, whose base stands under a key of its own.
fn rotary_of_kind(config: &Config, kind: &str, head: usize, key: &str, default: f64) -> Result<RotaryShape> {
    RotaryShape::read(config, Some(kind), head, config.positive(key)?.unwrap_or(default))
}

fn refuse_decoder(config: &Config) -> Result<()> {
    config.expect("is_decoder", &json!(false))?;
    config.expect("add_cross_attention", &json!(false))
}

fn positive(config: &Config, keys: &[&str], default: f64) -> Result<f64> {
    for key in keys {
        if let Some(number) = config.positive(key)? {
            return Ok(number);
        }
    }
    Ok(default)
}

fn layer_norm(config: &Config, key: &str, epsilon: f64) -> Result<NormShape> {
    Ok(NormShape { epsilon: config.epsilon(&[key], epsilon)?, ..LAYER_NORM })
}

fn root_mean_square(config: &Config, epsilon: f64) -> Result<NormShape> {
    Ok(NormShape { centred: false, bias: false, ..layer_norm(config, "rms_norm_eps", epsilon)? })
}

fn activation(config: &Config, key: &str, default: &str) -> Result<Activation> {
    match config.text(key)?.unwrap_or(default) {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_fast" | "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        "tanh" => Ok(Activation::Tanh),
        other => Err(config.unsupported(key, other, ACTIVATIONS)),
    }
}

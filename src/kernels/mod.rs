//! CPU arithmetic: packed matrices, attention, normalisation.
//!
//! The only `unsafe` arithmetic of the crate lives here. Every kernel comes in three *paths*, chosen once per process:
//! AVX-512, AVX2 with FMA, and portable Rust. What a row of the result contains depends on that row of the input alone,
//! and is added up in an order that does not depend on how many rows there are: that is what makes a vector the same to
//! the bit in any batch (I1).
//!
//! | file | what |
//! |---|---|
//! | `path.rs` | which instructions this machine has |
//! | `tile.rs` | the micro-kernels: a tile of a product with its sums in registers |
//! | `matrix.rs` | `y = activation(x W^T + b) + residual` with `W` packed once |
//! | `convert.rs` | f32 rows -> bf16 and int8 rows |
//! | `rotary.rs` | positions of tokens, turned into queries and keys |
//! | `attention.rs` | softmax(q k^T) v of one text |
//! | `softmax.rs` | scores -> weights |
//! | `team.rs` | threads that share the products of a lone text |
//! | `rows.rs` | normalisation, exponentials, activation functions |
//! | `vectors.rs` | sums over the places of vectors, and their bytes, for SQL |

mod attention;
mod convert;
mod matrix;
mod path;
mod rotary;
mod rows;
mod softmax;
mod team;
mod tile;
mod vectors;

pub(crate) use attention::{Attention, AttentionScratch, Bias, Reach};
pub(crate) use convert::Converted;
pub(crate) use matrix::{Arithmetic, Epilogue, PackedMatrix, column_ranges};
pub(crate) use path::Path;
pub(crate) use rotary::Rotary;
pub(crate) use rows::{Activation, Norm};
pub(crate) use team::Team;
pub(crate) use vectors::{Real, Sum, Widened, add_to_sum, products, row_of, sums, to_bytes};

//! Functions of vectors: a list of numbers each, fixed or variable, of any number.
//!
//! | file | what |
//! |---|---|
//! | `arithmetic.rs` | vectors to vectors: `vector_add`, `vector_sub`, `vector_mul`, `vector_scale`, `vector_normalize`, `vector_slice` |
//! | `measures.rs` | vectors to numbers: `l1_distance`, `l2_distance`, `negative_inner_product`, `cosine_similarity`, `vector_norm` |
//! | `quantize.rs` | vectors to smaller ones: `quantize_int8`, `quantize_binary` |
//! | `ranges.rs` | many vectors to the ranges that this takes: `int8_ranges` |
//! | `bits.rs` | binary vectors to numbers: `hamming_distance`, `jaccard_distance` |
//! | `text.rs` | `vector('[1,2,3]')` and `vector_text` |
//! | `average.rs` | many vectors to one: `vector_avg`, `vector_sum` |
//! | `dialect.rs` | how their operators are read |
//! | `operators.rs` | what they mean: `<->`, `<#>`, `<=>`, `<+>`, `<~>`, `<%>` |
//! | `overloads.rs` | `avg` and `sum` of vectors, in sessions of ours |
//! | `lists.rs` | how columns of them are read and made |

mod arithmetic;
mod average;
mod bits;
mod dialect;
mod lists;
mod measures;
mod operators;
mod overloads;
mod quantize;
mod ranges;
mod text;

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};

use self::arithmetic::Arithmetic;
pub(super) use self::average::VectorTotal;
use self::bits::BitDistance;
pub(crate) use self::dialect::{WITH_OPERATORS, with_operators};
use self::lists::Kind;
use self::measures::Measure;
pub(super) use self::operators::VectorOperators;
pub(super) use self::overloads::WithVectors;
use self::quantize::Quantize;
pub(super) use self::ranges::Int8Ranges;

/// One of the functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct VectorFunction {
    body: Body,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Body {
    Measure(Measure),
    Arithmetic(Arithmetic),
    BitDistance(BitDistance),
    Quantize(Quantize),
    Read,
    Write,
}

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument {
    Vector,
    /// A vector of bits.
    Bits,
    /// Two vectors, the ends of the range of each place.
    Ranges,
    Number,
    /// A text of a vector, or a vector.
    Text,
}

/// A function: its name and what it is; its arguments by name; what it does, and an example with what that gives.
struct Row {
    body: Body,
    name: &'static str,
    arguments: &'static [(&'static str, Argument)],
    description: &'static str,
    example: &'static str,
}

const PAIR: &[(&str, Argument)] = &[("a", Argument::Vector), ("b", Argument::Vector)];

const BITS: &[(&str, Argument)] = &[("a", Argument::Bits), ("b", Argument::Bits)];

const FUNCTIONS: [Row; 17] = [
    Row {
        body: Body::Arithmetic(Arithmetic::Add),
        name: "vector_add",
        arguments: PAIR,
        description: "The sum of two vectors, place by place, of their type.",
        example: "SELECT vector_text(vector_add(vector('[1,2]'), vector('[3,4]'))); -- [4,6]",
    },
    Row {
        body: Body::Arithmetic(Arithmetic::Subtract),
        name: "vector_sub",
        arguments: PAIR,
        description: "The difference of two vectors, place by place, of their type.",
        example: "SELECT vector_text(vector_sub(vector('[1,2]'), vector('[3,5]'))); -- [-2,-3]",
    },
    Row {
        body: Body::Arithmetic(Arithmetic::Multiply),
        name: "vector_mul",
        arguments: PAIR,
        description: "The product of two vectors, place by place, of their type.",
        example: "SELECT vector_text(vector_mul(vector('[1,2]'), vector('[3,4]'))); -- [3,8]",
    },
    Row {
        body: Body::Arithmetic(Arithmetic::Scale),
        name: "vector_scale",
        arguments: &[("vector", Argument::Vector), ("factor", Argument::Number)],
        description: "A vector times a number, of the vector's type; of whole numbers it is Float32, of those of 32 and 64 bits \
                      Float64.",
        example: "SELECT vector_text(vector_scale(vector('[1,2]'), 0.5)); -- [0.5,1]",
    },
    Row {
        body: Body::Arithmetic(Arithmetic::Normalize),
        name: "vector_normalize",
        arguments: &[("vector", Argument::Vector)],
        description: "The vector of length 1 in the same direction, of the vector's type; of whole numbers it is Float32, of those of \
                      32 and 64 bits Float64. A vector of zeros stays as it is.",
        example: "SELECT vector_text(vector_normalize(vector('[3,4]'))); -- [0.6,0.8]",
    },
    Row {
        body: Body::Arithmetic(Arithmetic::Slice),
        name: "vector_slice",
        arguments: &[("vector", Argument::Vector), ("start", Argument::Number), ("count", Argument::Number)],
        description: "So many values of a vector from a start, which counts from 1. Of vectors of a fixed length the result has one, and the numbers are literals.",
        example: "SELECT vector_text(vector_slice(vector('[1,2,3,4]'), 2, 2)); -- [2,3]",
    },
    Row {
        body: Body::Measure(Measure::Norm),
        name: "vector_norm",
        arguments: &[("vector", Argument::Vector)],
        description: "The length of a vector: the root of the sum of its squares.",
        example: "SELECT vector_norm(vector('[3,4]')); -- 5.0",
    },
    Row {
        body: Body::Measure(Measure::L1Distance),
        name: "l1_distance",
        arguments: PAIR,
        description: "The sum of the differences of two vectors without their signs (`<+>` of pgvector).",
        example: "SELECT l1_distance(vector('[1,2]'), vector('[3,5]')); -- 5.0",
    },
    Row {
        body: Body::Measure(Measure::L2Distance),
        name: "l2_distance",
        arguments: PAIR,
        description: "The length of the difference of two vectors (`<->` of pgvector).",
        example: "SELECT l2_distance(vector('[0,0]'), vector('[3,4]')); -- 5.0",
    },
    Row {
        body: Body::Measure(Measure::NegativeInnerProduct),
        name: "negative_inner_product",
        arguments: PAIR,
        description: "The inner product of two vectors with the other sign, which is the smaller the more they are alike (`<#>` of \
                      pgvector).",
        example: "SELECT negative_inner_product(vector('[1,2]'), vector('[3,4]')); -- -11.0",
    },
    Row {
        body: Body::Measure(Measure::CosineSimilarity),
        name: "cosine_similarity",
        arguments: PAIR,
        description: "The cosine of the angle between two vectors, from -1 to 1, in Float32; a vector of zeros gives 0. Less it, 1 is \
                      `<=>` of pgvector.",
        example: "SELECT cosine_similarity(vector('[3,4]'), vector('[4,3]')); -- 0.96",
    },
    Row {
        body: Body::Quantize(Quantize::Int8),
        name: "quantize_int8",
        arguments: &[("vector", Argument::Vector), ("ranges", Argument::Ranges)],
        description: "A vector in bytes: where each number lies between the minimum and the maximum of its place, as Int8 from -128 to \
                      127. What lies outside is one of the two; NaN is the minimum (`int8` of sentence-transformers).",
        example: "SELECT quantize_int8(vector('[0,0.5,9]'), [[0,0,0], [1,1,1]]); -- [-128, -1, 127]",
    },
    Row {
        body: Body::Quantize(Quantize::Binary),
        name: "quantize_binary",
        arguments: &[("vector", Argument::Vector)],
        description: "A vector in bits, which are set where a number is above 0: eight to a UInt8, the first in the highest bit, the last \
                      byte filled with zeros (`ubinary` of sentence-transformers).",
        example: "SELECT quantize_binary(vector('[1,-1,0,0.5]')); -- [144]",
    },
    Row {
        body: Body::BitDistance(BitDistance::Hamming),
        name: "hamming_distance",
        arguments: BITS,
        description: "The bits in which two binary vectors differ (`<~>` of pgvector).",
        example: "SELECT hamming_distance(quantize_binary(vector('[1,-1]')), quantize_binary(vector('[1,1]'))); -- 1.0",
    },
    Row {
        body: Body::BitDistance(BitDistance::Jaccard),
        name: "jaccard_distance",
        arguments: BITS,
        description: "One less the share of the bits that two binary vectors have in common among those that either has; 1 where they \
                      have none in common (`<%>` of pgvector).",
        example: "SELECT jaccard_distance(quantize_binary(vector('[1,-1]')), quantize_binary(vector('[1,1]'))); -- 0.5",
    },
    Row {
        body: Body::Read,
        name: "vector",
        arguments: &[("text", Argument::Text)],
        description: "The vector of a text such as '[1, 2.5, 3]', a list of Float32; a vector stays what it is.",
        example: "SELECT vector('[1, 2.5]'); -- [1.0, 2.5]",
    },
    Row {
        body: Body::Write,
        name: "vector_text",
        arguments: &[("vector", Argument::Vector)],
        description: "A vector as a text, which `vector` reads back to the same numbers.",
        example: "SELECT vector_text([1.5, 2.0]); -- [1.5,2]",
    },
];

impl VectorFunction {
    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        FUNCTIONS.iter().map(|row| {
            let arguments = row.arguments.iter().map(|(_, argument)| *argument);
            Self { body: row.body, signature: signature(arguments) }
        })
    }

    fn row(&self) -> &'static Row {
        &FUNCTIONS[self.number()]
    }

    fn number(&self) -> usize {
        FUNCTIONS.iter().position(|row| row.body == self.body).unwrap_or_default()
    }

    /// The vectors among the arguments.
    fn kinds(&self, types: &[DataType]) -> Result<Vec<Kind>> {
        let Row { name, arguments, .. } = self.row();
        if types.len() != arguments.len() {
            let names: Vec<&str> = arguments.iter().map(|(name, _)| *name).collect();
            return plan_err!("{name}({}) got {} arguments", names.join(", "), types.len());
        }
        let mut kinds = Vec::new();
        for (number, (data_type, (_, argument))) in types.iter().zip(*arguments).enumerate() {
            if !argument.takes(data_type) {
                let hint = match argument {
                    Argument::Vector if data_type.is_string() => "; vector('[1,2]') makes one of a text",
                    _ => "",
                };
                return plan_err!("{name}: argument {} is {data_type}, not {}{hint}", number + 1, argument.what());
            }
            kinds.extend(Kind::of(data_type));
        }
        Ok(kinds)
    }

    fn return_type_of(&self, types: &[DataType], scalars: &[Option<&ScalarValue>]) -> Result<DataType> {
        let kinds = self.kinds(types)?;
        match self.body {
            Body::Measure(measure) => measure.return_type(&kinds),
            Body::Arithmetic(arithmetic) => Ok(arithmetic.return_kind(&kinds, scalars)?.data_type()),
            Body::BitDistance(_) => BitDistance::return_type(&kinds),
            Body::Quantize(quantize) => Ok(quantize.return_kind(&kinds[0], types)?.data_type()),
            Body::Read => Ok(kinds.first().map_or_else(text::kind, Kind::clone).data_type()),
            Body::Write => Ok(DataType::Utf8),
        }
    }

    fn column(&self, args: &[ColumnarValue], return_type: &DataType, rows: usize) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.iter().map(ColumnarValue::data_type).collect();
        let kinds = self.kinds(&types)?;
        let made = Kind::of(return_type);
        let column = match (self.body, made, kinds.first()) {
            (Body::Measure(measure), ..) => measure.column(args, &kinds, rows),
            (Body::Arithmetic(arithmetic), Some(made), _) => arithmetic.column(args, &kinds, &made, rows),
            (Body::BitDistance(distance), ..) => distance.column(args, rows),
            (Body::Quantize(quantize), Some(made), Some(kind)) => quantize.column(args, kind, &made, rows),
            (Body::Read, _, Some(_)) => args[0].to_array(rows),
            (Body::Read, Some(made), None) => text::read(&args[0], &made, rows),
            (Body::Write, _, Some(kind)) => text::write(&args[0], kind, rows),
            _ => return internal_err!("{} gives no {return_type}", self.row().name),
        };
        Ok(ColumnarValue::Array(column?))
    }
}

impl Argument {
    fn takes(self, data_type: &DataType) -> bool {
        match self {
            Self::Vector => Kind::of(data_type).is_some(),
            Self::Bits => Kind::of(data_type).is_some_and(|kind| *kind.item.data_type() == DataType::UInt8),
            Self::Ranges => ranges::kind_of(data_type).is_some(),
            Self::Number => data_type.is_numeric() || data_type.is_null(),
            Self::Text => data_type.is_string() || data_type.is_null() || Kind::of(data_type).is_some(),
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Vector => "a list of numbers",
            Self::Bits => "a binary vector, which is a list of UInt8",
            Self::Ranges => "a list of two lists of numbers, the minimums and the maximums (int8_ranges gives one)",
            Self::Number => "a number",
            Self::Text => "a text",
        }
    }

    fn example(self) -> DataType {
        match self {
            Self::Vector => DataType::new_list(DataType::Float32, true),
            Self::Bits => DataType::new_list(DataType::UInt8, true),
            Self::Ranges => DataType::new_list(Self::Vector.example(), true),
            Self::Number => DataType::Float64,
            Self::Text => DataType::Utf8,
        }
    }

    /// The type in which it is read: what it is, but for an untyped NULL. A number stays a literal.
    fn coerced(self, data_type: &DataType) -> DataType {
        if data_type.is_null() && self != Self::Number { self.example() } else { data_type.clone() }
    }
}

/// What a function with such arguments takes.
///
/// UserDefined decides. Nullary lets a call without arguments reach our own error, and Exact is an example of a call, without which
/// SHOW FUNCTIONS would not list the function.
fn signature(arguments: impl IntoIterator<Item = Argument>) -> Signature {
    let example = arguments.into_iter().map(Argument::example).collect();
    let kinds = vec![TypeSignature::UserDefined, TypeSignature::Nullary, TypeSignature::Exact(example)];
    Signature::one_of(kinds, Volatility::Immutable)
}

/// The types in which the one argument of an aggregate is read. What it must not be, [`vectors_of`] refuses.
fn coerced_vectors(types: &[DataType]) -> Vec<DataType> {
    types.iter().map(|data_type| Argument::Vector.coerced(data_type)).collect()
}

/// The one argument of an aggregate.
fn vectors_of(name: &str, types: &[DataType]) -> Result<Kind> {
    let [data_type] = types else { return plan_err!("{name}(vector) got {} arguments", types.len()) };
    match Kind::of(data_type) {
        Some(kind) => Ok(kind),
        None => plan_err!("{name}: argument 1 is {data_type}, not {}", Argument::Vector.what()),
    }
}

/// Names the function in an error of it.
fn named(name: &str, error: DataFusionError) -> DataFusionError {
    match error {
        DataFusionError::Execution(message) => DataFusionError::Execution(format!("{name}: {message}")),
        DataFusionError::Plan(message) if !message.starts_with(name) => {
            DataFusionError::Plan(format!("{name}: {message}"))
        }
        other => other,
    }
}

impl ScalarUDFImpl for VectorFunction {
    fn name(&self) -> &str {
        self.row().name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// A wrong type stays as it is and is refused when the type of the result is asked for: an error made here would be buried in
    /// DataFusion's list of candidate functions.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let arguments = self.row().arguments.iter().map(|(_, argument)| Some(*argument)).chain(std::iter::repeat(None));
        let coerced = |(data_type, argument): (&DataType, Option<Argument>)| match argument {
            Some(argument) => argument.coerced(data_type),
            None => data_type.clone(),
        };
        Ok(types.iter().zip(arguments).map(coerced).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.return_type_of(types, &vec![None; types.len()]).map_err(|error| named(self.name(), error))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let data_type = self.return_type_of(&types, args.scalar_arguments);
        let data_type = data_type.map_err(|error| named(self.name(), error))?;
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let column = self.column(&args.args, args.return_field.data_type(), rows);
        match column.map_err(|error| named(self.name(), error))? {
            ColumnarValue::Array(column) if all_scalar => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&column, 0)?))
            }
            column => Ok(column),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        static ALL: LazyLock<Vec<Documentation>> = LazyLock::new(|| FUNCTIONS.iter().map(documentation).collect());
        ALL.get(self.number())
    }
}

fn documentation(row: &Row) -> Documentation {
    let names: Vec<&str> = row.arguments.iter().map(|(name, _)| *name).collect();
    let syntax = format!("{}({})", row.name, names.join(", "));
    let section = DocSection { include: true, label: "Vector Functions", description: None };
    let description = format!("{} NULL gives NULL.", row.description);
    let mut builder = Documentation::builder(section, description, syntax);
    builder = builder.with_sql_example(format!("```sql\n{}\n```", row.example));
    for (name, argument) in row.arguments {
        builder = builder.with_argument(*name, argument.what());
    }
    builder.build()
}

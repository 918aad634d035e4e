//! Plans as bytes: the operator, the functions and the scans of this crate, beside whatever else a plan is made of.
//!
//! Nothing of a session is written: models by their names and what is known of their files, settings that decide a vector.
//! Device, concurrency, folders and the access to models are those of the place where the plan is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::common::{ScalarValue, exec_datafusion_err, exec_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::proto_decode::PhysicalExprDecodeCtx;
use datafusion::physical_expr_common::physical_expr::proto_encode::PhysicalExprEncodeCtx;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    DefaultPhysicalExtensionCodec, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use prost::{Message, Oneof};

use super::exec::EmbedExec;
use super::execution::PlanId;
use super::literals::LiteralsExec;
use super::planned::PlannedCall;
use crate::engine::{Call, Identity};
use crate::files::read_scan;
use crate::functions::{
    WrittenCall, WrittenFunction, aggregate_named, average_vectors_as, takes_vectors_too, vector_function_named,
};
use crate::marked::Mark;
use crate::model::Role;

/// Before everything that this codec writes.
const MARK: Mark = Mark::new("datafusion-embed", 3, BROKEN);

/// Where vectors of literals are computed.
const LITERALS: Mark = Mark::new("datafusion-embed-literals", 1, BROKEN);

/// For `avg` and `sum` of sessions where they take vectors.
const AGGREGATE: Mark = Mark::new("datafusion-embed-aggregate", 1, BROKEN);

/// Writes and reads the operator, the functions and the scans of text files of this crate in physical plans; everything else goes to
/// another codec.
///
/// A plan is made where the query is written, and runs where its bytes are read: on models of that place by their names, which
/// have to be the same models. Other dimensions, other configuration files, or another fingerprint where it was known, are an
/// error before the first row.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use datafusion::physical_plan::collect;
/// use datafusion_embed::{EmbedCodec, SessionOptions, session};
/// use datafusion_proto::bytes::{
///     physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
/// };
///
/// let (here, there) = (session(SessionOptions::default())?, session(SessionOptions::default())?);
/// let frame = here.sql("SELECT title, embed(body) FROM 'sql/docs.parquet' LIMIT 2").await?;
/// let codec = EmbedCodec::default();
/// let bytes = physical_plan_to_bytes_with_extension_codec(frame.create_physical_plan().await?, &codec)?;
///
/// let plan = physical_plan_from_bytes_with_extension_codec(&bytes, &there.task_ctx(), &codec)?;
/// # #[cfg(feature = "bundled-model")]
/// assert_eq!(collect(plan, there.task_ctx()).await?[0].num_rows(), 2);
/// # datafusion::error::Result::<()>::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct EmbedCodec {
    others: Arc<dyn PhysicalExtensionCodec>,
}

impl EmbedCodec {
    /// With the codec of everything that is not of this crate.
    pub fn over(others: Arc<dyn PhysicalExtensionCodec>) -> Self {
        Self { others }
    }
}

/// Over DataFusion's own.
impl Default for EmbedCodec {
    fn default() -> Self {
        Self::over(Arc::new(DefaultPhysicalExtensionCodec {}))
    }
}

impl PhysicalExtensionCodec for EmbedCodec {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if node.is::<LiteralsExec>() {
            // What they are stands in the functions of its input.
            buf.extend(LITERALS.write(&protobuf::EmptyMessage {}));
            return Ok(());
        }
        let Some(exec) = node.downcast_ref::<EmbedExec>() else { return self.others.try_encode(node, buf, converter) };
        let calls = exec.calls.iter().map(|call| {
            let text = converter.physical_expr_to_proto(&call.text, self)?;
            CallColumn::new(call, text)
        });
        let calls = calls.collect::<Result<_>>()?;
        let message = Operator { calls, joins_partitions: exec.joins_partitions, plan: exec.plan.0 };
        buf.extend(MARK.write(&message));
        Ok(())
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(scan) = read_scan(buf, inputs)? {
            return Ok(scan);
        }
        if LITERALS.read::<protobuf::EmptyMessage>(buf)?.is_some() {
            let [input] = inputs else {
                return exec_err!("a LiteralsExec in the plan has {} inputs, not 1", inputs.len());
            };
            return Ok(Arc::new(LiteralsExec::new(Arc::clone(input))?));
        }
        let Some(message) = MARK.read::<Operator>(buf)? else {
            return self.others.try_decode(buf, inputs, context, converter);
        };
        let [input] = inputs else { return exec_err!("an EmbedExec in the plan has {} inputs, not 1", inputs.len()) };
        let (schema, decoding) = (input.schema(), PhysicalPlanDecodeContext::new(context, self));
        let calls = message.calls.into_iter().map(|column| {
            let text = converter.proto_to_physical_expr(required(&column.text, "text")?, &schema, &decoding)?;
            column.planned(text)
        });
        let exec = EmbedExec::try_new(Arc::clone(input), calls.collect::<Result<_>>()?, PlanId(message.plan))?;
        Ok(Arc::new(if message.joins_partitions { exec.joining_partitions()? } else { exec }))
    }

    fn try_encode_udf(&self, function: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        match WrittenFunction::of(function) {
            Some(function) => buf.extend(MARK.write(&Function::from(function))),
            None => self.others.try_encode_udf(function, buf)?,
        }
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        match MARK.read::<Function>(buf)? {
            Some(function) => Ok(Arc::new(WrittenFunction::try_from(function)?.read())),
            // What a function of vectors gives is decided by its name.
            None => match vector_function_named(name).filter(|_| buf.is_empty()) {
                Some(function) => Ok(Arc::new(function)),
                None => self.others.try_decode_udf(name, buf),
            },
        }
    }

    fn try_encode_higher_order_function(&self, function: &HigherOrderUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.others.try_encode_higher_order_function(function, buf)
    }

    fn try_decode_higher_order_function(&self, name: &str, buf: &[u8]) -> Result<Arc<HigherOrderUDF>> {
        self.others.try_decode_higher_order_function(name, buf)
    }

    fn try_encode_expr(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        buf: &mut Vec<u8>,
        context: &PhysicalExprEncodeCtx<'_>,
    ) -> Result<()> {
        self.others.try_encode_expr(expr, buf, context)
    }

    fn try_decode_expr(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn PhysicalExpr>],
        context: &PhysicalExprDecodeCtx<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        self.others.try_decode_expr(buf, inputs, context)
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        if takes_vectors_too(function) {
            buf.extend(AGGREGATE.write(&protobuf::EmptyMessage {}));
            return Ok(());
        }
        self.others.try_encode_udaf(function, buf)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        if AGGREGATE.read::<protobuf::EmptyMessage>(buf)?.is_some() {
            let of_both =
                average_vectors_as(name).ok_or_else(|| exec_datafusion_err!("{BROKEN}: the function {name}"))?;
            return Ok(Arc::new(of_both));
        }
        match aggregate_named(name).filter(|_| buf.is_empty()) {
            Some(function) => Ok(Arc::new(function)),
            None => self.others.try_decode_udaf(name, buf),
        }
    }

    fn try_encode_udwf(&self, function: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.others.try_encode_udwf(function, buf)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        self.others.try_decode_udwf(name, buf)
    }
}

const BROKEN: &str = "the part of datafusion-embed in the plan cannot be read";

/// A part of a message without which there is no plan.
fn required<'a, T>(part: &'a Option<T>, name: &str) -> Result<&'a T> {
    part.as_ref().ok_or_else(|| exec_datafusion_err!("{BROKEN}: it has no {name}"))
}

/// [`EmbedExec`]; its input is written beside it.
#[derive(Clone, PartialEq, Message)]
struct Operator {
    #[prost(message, repeated, tag = "1")]
    calls: Vec<CallColumn>,
    #[prost(bool, tag = "2")]
    joins_partitions: bool,
    #[prost(fixed64, tag = "3")]
    plan: u64,
}

/// [`PlannedCall`]
#[derive(Clone, PartialEq, Message)]
struct CallColumn {
    #[prost(string, tag = "1")]
    function: String,
    #[prost(message, optional, tag = "2")]
    text: Option<protobuf::PhysicalExprNode>,
    #[prost(message, optional, tag = "3")]
    field: Option<protobuf::Field>,
    #[prost(message, optional, tag = "4")]
    call: Option<CallMessage>,
    #[prost(message, optional, tag = "5")]
    identity: Option<IdentityMessage>,
}

impl CallColumn {
    fn new(planned: &PlannedCall, text: protobuf::PhysicalExprNode) -> Result<Self> {
        Ok(Self {
            function: planned.function.clone(),
            text: Some(text),
            field: Some(planned.field.as_ref().try_into()?),
            call: Some(CallMessage::from(&planned.call)),
            identity: Some(IdentityMessage::from(&planned.identity)),
        })
    }

    fn planned(self, text: Arc<dyn PhysicalExpr>) -> Result<PlannedCall> {
        Ok(PlannedCall {
            text,
            field: Arc::new(Field::try_from(required(&self.field, "field")?)?),
            call: Call::try_from(required(&self.call, "call")?)?,
            identity: required(&self.identity, "identity")?.clone().into(),
            function: self.function,
        })
    }
}

/// [`Call`]
#[derive(Clone, PartialEq, Message)]
struct CallMessage {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(string, tag = "2")]
    role: String,
    #[prost(string, tag = "3")]
    precision: String,
    #[prost(uint64, tag = "4")]
    max_tokens: u64,
    #[prost(bool, tag = "5")]
    truncate: bool,
    #[prost(uint64, tag = "6")]
    dimensions: u64,
    #[prost(string, optional, tag = "7")]
    prompt: Option<String>,
}

impl From<&Call> for CallMessage {
    fn from(call: &Call) -> Self {
        Self {
            model: call.model.clone(),
            role: call.role.to_string(),
            precision: call.precision.to_string(),
            max_tokens: call.max_tokens as u64,
            truncate: call.truncate,
            dimensions: call.dimensions as u64,
            prompt: call.prompt.clone(),
        }
    }
}

impl TryFrom<&CallMessage> for Call {
    type Error = datafusion::error::DataFusionError;

    fn try_from(message: &CallMessage) -> Result<Self> {
        let role = Role::ALL.into_iter().find(|role| role.to_string() == message.role);
        let Some(role) = role else { return exec_err!("{BROKEN}: the role '{}'", message.role) };
        Ok(Self {
            model: message.model.clone(),
            role,
            prompt: message.prompt.clone(),
            precision: message.precision.parse()?,
            max_tokens: message.max_tokens as usize,
            truncate: message.truncate,
            dimensions: message.dimensions as usize,
        })
    }
}

/// [`Identity`]
#[derive(Clone, PartialEq, Message)]
struct IdentityMessage {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(string, optional, tag = "2")]
    fingerprint: Option<String>,
}

impl From<&Identity> for IdentityMessage {
    fn from(Identity { description, fingerprint }: &Identity) -> Self {
        Self { description: description.clone(), fingerprint: fingerprint.clone() }
    }
}

impl From<IdentityMessage> for Identity {
    fn from(IdentityMessage { description, fingerprint }: IdentityMessage) -> Self {
        Self { description, fingerprint }
    }
}

/// [`WrittenFunction`]
#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Embed(FunctionCall),
    #[prost(message, tag = "2")]
    EmbedTokens(FunctionCall),
    #[prost(message, tag = "3")]
    EmbedChunks(FunctionCall),
}

/// [`WrittenCall`]
#[derive(Clone, PartialEq, Message)]
struct FunctionCall {
    #[prost(message, optional, tag = "1")]
    call: Option<CallMessage>,
    #[prost(btree_map = "string, message", tag = "2")]
    identities: BTreeMap<String, IdentityMessage>,
    /// Whether it is over literals.
    #[prost(bool, tag = "3")]
    has_literals: bool,
    #[prost(message, repeated, tag = "4")]
    literals: Vec<LiteralMessage>,
}

/// The vector of a literal.
#[derive(Clone, PartialEq, Message)]
struct LiteralMessage {
    #[prost(message, optional, tag = "1")]
    call: Option<CallMessage>,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(message, optional, tag = "3")]
    vector: Option<datafusion_proto::protobuf::ScalarValue>,
}

impl From<WrittenFunction> for Function {
    fn from(function: WrittenFunction) -> Self {
        let kind = match function {
            WrittenFunction::Embed(call) => Kind::Embed(call.into()),
            WrittenFunction::EmbedChunks(call) => Kind::EmbedChunks(call.into()),
            WrittenFunction::EmbedTokens(call) => Kind::EmbedTokens(call.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<Function> for WrittenFunction {
    type Error = datafusion::error::DataFusionError;

    fn try_from(Function { kind }: Function) -> Result<Self> {
        Ok(match kind {
            Some(Kind::Embed(call)) => Self::Embed(call.try_into()?),
            Some(Kind::EmbedChunks(call)) => Self::EmbedChunks(call.try_into()?),
            Some(Kind::EmbedTokens(call)) => Self::EmbedTokens(call.try_into()?),
            None => return exec_err!("{BROKEN}: a function of no known kind"),
        })
    }
}

impl From<WrittenCall> for FunctionCall {
    fn from(WrittenCall { call, identities, literals }: WrittenCall) -> Self {
        let identities = identities.iter().map(|(name, identity)| (name.clone(), identity.into()));
        let has_literals = literals.is_some();
        let literals = literals.into_iter().flatten().map(|(call, text, vector)| {
            // A vector of floats is always written.
            LiteralMessage { call: Some((&call).into()), text, vector: (&vector).try_into().ok() }
        });
        Self {
            call: Some((&call).into()),
            identities: identities.collect(),
            has_literals,
            literals: literals.collect(),
        }
    }
}

impl TryFrom<FunctionCall> for WrittenCall {
    type Error = datafusion::error::DataFusionError;

    fn try_from(FunctionCall { call, identities, has_literals, literals }: FunctionCall) -> Result<Self> {
        let identities = identities.into_iter().map(|(name, identity)| (name, identity.into())).collect();
        let literals = literals.into_iter().map(|LiteralMessage { call, text, vector }| {
            let call = Call::try_from(required(&call, "call")?)?;
            Ok((call, text, ScalarValue::try_from(required(&vector, "vector")?)?))
        });
        let literals = literals.collect::<Result<_>>()?;
        Ok(Self { call: required(&call, "call")?.try_into()?, identities, literals: has_literals.then_some(literals) })
    }
}

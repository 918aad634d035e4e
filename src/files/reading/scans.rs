//! A scan of text files in the bytes of a plan: beside DataFusion's own scan, what of ours that does not say.

use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{self, PhysicalExtensionNode, PhysicalPlanNode};
use encoding_rs::Encoding;
use prost::Message;

use crate::marked::Mark;

/// Before what is written here.
const MARK: Mark = Mark::new("embedsql text", 1, BROKEN);

pub(super) const BROKEN: &str = "the scan of text files in the plan cannot be read";

/// [`TextSource`](super::text::TextSource); DataFusion's own is written beside it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TextMessage {
    /// Of a CSV file.
    #[prost(message, optional, tag = "1")]
    pub(super) csv: Option<protobuf::CsvFormat>,
    #[prost(bool, tag = "2")]
    pub(super) is_array: bool,
    #[prost(bool, tag = "3")]
    pub(super) splits: bool,
    #[prost(string, optional, tag = "4")]
    pub(super) encoding: Option<String>,
    #[prost(string, tag = "5")]
    pub(super) compression: String,
    #[prost(message, optional, tag = "6")]
    pub(super) beside: Option<protobuf::Schema>,
    #[prost(uint64, tag = "7")]
    pub(super) rows: u64,
}

impl TextMessage {
    /// Beside DataFusion's own scan.
    pub(super) fn beside(&self, scan: PhysicalPlanNode) -> PhysicalPlanNode {
        let node = PhysicalExtensionNode { node: MARK.write(self), inputs: vec![scan] };
        PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(node)) }
    }

    /// `None` where the bytes are somebody else's.
    pub(super) fn read(buf: &[u8]) -> Result<Option<Self>> {
        MARK.read(buf)
    }

    pub(super) fn known_encoding(&self) -> Result<Option<&'static Encoding>> {
        let known = |name: &String| {
            let known = Encoding::for_label(name.as_bytes());
            known.ok_or_else(|| exec_datafusion_err!("{BROKEN}: the encoding {name:?}"))
        };
        self.encoding.as_ref().map(known).transpose()
    }
}

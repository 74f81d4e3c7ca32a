//! The body of a batch: its two media types, and their description.

use poem::{Body, Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::mpsc;

use super::parts::{self, Part};
use crate::{
    api::{
        batches::ModeView,
        jobs::body::NewJobBody,
        problem::{Code, Problem},
        typed::Typed,
    },
    store::batches::BatchMode,
};

const NDJSON: &str = "application/x-ndjson";

/// The shape of a JSON body, for the document. It is read in parts, and its jobs by the parser of a single one.
#[derive(Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewBatch")]
pub struct NewBatchBody {
    /// From 1 to 10,000, each of at most 1 MiB.
    #[schemars(length(min = 1, max = 10_000))]
    jobs: Vec<NewJobBody>,
    /// `all_or_nothing` when it is left out here and in the query.
    #[serde(default)]
    mode: Option<ModeView>,
}

/// Reads the word for a mode.
pub fn read_mode(word: &str) -> Result<BatchMode, Problem> {
    BatchMode::parse(word).ok_or_else(|| {
        let known = BatchMode::ALL.map(BatchMode::as_str).join(", ");
        Problem::new(Code::InvalidParameter, format!("The modes there are: {known}.")).field("mode")
    })
}

/// A body of one of the two media types, still on its way in.
pub struct BatchBody {
    body: Body,
    is_ndjson: bool,
}

impl BatchBody {
    /// Its parts, as they come in; the last one may be a problem.
    pub fn parts(self) -> mpsc::Receiver<Result<Part, Problem>> {
        if self.is_ndjson {
            parts::of_ndjson(self.body)
        } else {
            parts::of_json(self.body)
        }
    }
}

impl<'a> ApiExtractor<'a> for BatchBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Typed<NewBatchBody> as Type>::register(registry);
        <Typed<NewJobBody> as Type>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![
                MetaMediaType {
                    content_type: <Json<Typed<NewBatchBody>> as Payload>::CONTENT_TYPE,
                    schema: <Typed<NewBatchBody> as Type>::schema_ref(),
                },
                MetaMediaType {
                    content_type: NDJSON,
                    schema: <Typed<NewJobBody> as Type>::schema_ref(),
                },
            ],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let media_type = request.content_type().unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let is_ndjson = essence.eq_ignore_ascii_case(NDJSON);
        if !is_ndjson && !essence.eq_ignore_ascii_case("application/json") {
            let detail = format!("Send the body as application/json or {NDJSON}.");
            return Err(Problem::new(Code::UnsupportedMediaType, detail).into());
        }
        Ok(Self {
            body: body.take()?,
            is_ndjson,
        })
    }
}

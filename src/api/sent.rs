//! Bodies of requests: read within a size and a time, parsed with serde, and refused with the path of the wrong field.

use std::{marker::PhantomData, time::Duration};

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    error::ContentTypeError,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaRequest, Registry},
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{
    jobs::body,
    problem::{Code, Problem},
    shell,
    typed::Typed,
};

/// Most bytes of a body.
pub const MAX_BODY: usize = 1024 * 1024;

/// How long a body may take to come in.
const BODY_TIMEOUT: Duration = Duration::from_secs(8);

/// The bytes of a JSON body of the right media type and size, to be read as a `T` with [`Sent::read`].
/// Wiped when it is dropped: it may hold a code or a password.
pub struct Sent<T>(Zeroizing<Vec<u8>>, PhantomData<T>);

impl<T: DeserializeOwned + JsonSchema> Sent<T> {
    /// The body as a `T`.
    pub fn read(&self) -> Result<T, Problem> {
        body::parse(&self.0)
    }
}

impl<'a, T: JsonSchema + Serialize + Send + Sync> ApiExtractor<'a> for Sent<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Typed<T> as poem_openapi::types::Type>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: <Json<Typed<T>> as Payload>::CONTENT_TYPE,
                schema: <Typed<T> as poem_openapi::types::Type>::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(Zeroizing::new(bytes::<T>(request, body).await?), PhantomData))
    }
}

/// The bytes of a body whose media type is JSON.
pub async fn bytes<T: JsonSchema + Serialize + Send + Sync>(
    request: &Request,
    body: &mut RequestBody,
) -> poem::Result<Vec<u8>> {
    match request.content_type() {
        Some(content_type) if <Json<Typed<T>> as Payload>::check_content_type(content_type) => {}
        Some(content_type) => {
            return Err(ContentTypeError::NotSupported {
                content_type: content_type.to_owned(),
            }
            .into());
        }
        None => return Err(ContentTypeError::ExpectContentType.into()),
    }
    let reading = body.take()?.into_bytes_limit(MAX_BODY);
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(poem::error::ReadBodyError::PayloadTooLarge)) => Err(shell::too_large().into()),
        Ok(Err(_)) => Err(Problem::new(Code::BadRequest, "The body broke off.").into()),
        Err(_) => {
            let detail = format!("A body must come in within {} s.", BODY_TIMEOUT.as_secs());
            Err(Problem::new(Code::BodyTimeout, detail).into())
        }
    }
}

//! Bodies of the API are serde types with schemars' schemas, the same that `jobs` gives for its args. This lets
//! poem-openapi refer to them; [`document`](super::document) fills the schemas in.

use std::{borrow::Cow, marker::PhantomData};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// A serde type where poem-openapi wants one of its own.
#[derive(Debug, Clone)]
pub struct Typed<T>(pub T);

impl<T: JsonSchema + Send + Sync> Type for Typed<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = T;
    type RawElementValueType = T;

    fn name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(T::schema_name().into_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<T, _>(T::schema_name().into_owned(), |_| MetaSchema::new("object"));
    }

    fn as_raw_value(&self) -> Option<&T> {
        Some(&self.0)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a T> + 'a> {
        Box::new(std::iter::once(&self.0))
    }
}

impl<T: JsonSchema + Serialize + Send + Sync> ToJSON for Typed<T> {
    fn to_json(&self) -> Option<Value> {
        // The types of the API have string keys only, and numbers that JSON knows: they always serialize.
        serde_json::to_value(&self.0).ok()
    }
}

/// A `T` that has been serialized, perhaps long ago: the answer to an earlier request.
pub struct Answered<T> {
    body: Value,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize> Answered<T> {
    /// The answer that `view` is.
    pub fn of(view: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(view).map(Self::again)
    }
}

impl<T> Answered<T> {
    /// An answer that was one before.
    pub fn again(body: Value) -> Self {
        Self { body, of: PhantomData }
    }

    pub fn body(&self) -> &Value {
        &self.body
    }

    pub fn body_mut(&mut self) -> &mut Value {
        &mut self.body
    }
}

impl<T: JsonSchema + Send + Sync> Type for Answered<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Value;
    type RawElementValueType = Value;

    fn name() -> Cow<'static, str> {
        <Typed<T> as Type>::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        <Typed<T> as Type>::schema_ref()
    }

    fn register(registry: &mut Registry) {
        <Typed<T> as Type>::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Value> {
        Some(&self.body)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Value> + 'a> {
        Box::new(std::iter::once(&self.body))
    }
}

impl<T: JsonSchema + Send + Sync> ToJSON for Answered<T> {
    fn to_json(&self) -> Option<Value> {
        Some(self.body.clone())
    }
}

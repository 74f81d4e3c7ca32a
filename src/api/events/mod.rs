//! `/v1/events`: the log of events, read from a place on, by consumers with a name, or as a stream.

mod consumers;
mod data;
mod filter;
mod list;
mod stream;
#[cfg(test)]
mod tests;
mod view;

pub use self::{
    consumers::{AckBody, AckView, ConsumerBody, ConsumerView, ConsumersApi, ConsumersView},
    data::{register as register_data, union as data_union},
    filter::{known_types, subject_is_good},
    list::{EventListApi, waits},
    stream::EventStreamApi,
    view::{EventPage, StoredEvent},
};

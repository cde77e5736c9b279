//! HTTP/1.1 request heads and responses (RFC 9112), as much of them as a gateway needs that
//! upgrades connections and answers everything else with one short response.
//!
//! Bytes go in, meaning comes out: nothing here knows a socket, a clock or a route. Bodies of
//! requests are not accepted, and no connection outlives its first response, so framing is limited
//! to heads. `httparse` reads them, and what two parsers might read in two ways is refused on top.

mod authority;
mod grammar;
mod lines;
mod reader;
mod request;
mod response;
mod target;

pub(in crate::proto) use grammar::{is_tchar, is_token, list_elements, trim};
pub use reader::HeadReader;
pub use request::{Head, HeadError, HeadLimits};
pub use response::Response;
pub(in crate::proto) use response::{push_value, write_field};
pub use target::{
    QueryPair, Target, TargetError, path_segments, percent_decode, query_pairs, split_target,
};

//! Who a client is, where its certificate says so.

use super::{
    conn::Conn,
    http::{Decision, Target},
};
use crate::{config::ClientUser, proto::http1::Response, tls::peer};

/// The decision on a request with the user whom the client's certificate proves, where users come
/// `from` certificates; a refusal if that is not who it says it is.
pub(super) fn proven(mut decision: Decision, conn: &Conn, from: ClientUser) -> Decision {
    if from == ClientUser::None {
        return decision;
    }
    let Decision::Upgrade {
        target: Target::Rooms { user, .. },
        ..
    } = &mut decision
    else {
        return decision;
    };
    let chain = conn.tls().and_then(|tls| tls.stream.peer_certificates());
    let certificate = chain.and_then(|chain| chain.first());
    match peer::user_of(certificate, from, user.take()) {
        Ok(proven) => {
            *user = proven;
            decision
        }
        Err(error) => Decision::Respond(Box::new(Response::new(403).body(error.to_string()))),
    }
}

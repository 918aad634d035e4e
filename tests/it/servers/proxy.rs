//! Stands between a client and a server, so that what goes over the wire is counted and can go wrong.

use std::net::SocketAddr;

use super::message::Response;
use super::server::Server;

/// A server that passes every request on to another one.
pub(crate) fn start(to: SocketAddr) -> Server {
    Server::start(move |request| {
        let answer = request.send(to);
        answer.unwrap_or_else(|error| Response::new(502, format!("{to} does not answer: {error}")))
    })
}

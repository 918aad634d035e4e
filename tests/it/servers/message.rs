//! Requests and answers of HTTP/1.1, as text and back.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use url::form_urlencoded;

/// Names and values, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// Reads the lines up to the empty one.
    fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut headers = Self::default();
        loop {
            let line = read_line(from)?;
            let Some((name, value)) = line.split_once(':') else { return Ok(headers) };
            headers.push(name, value.trim());
        }
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        self.0.iter().try_for_each(|(name, value)| write!(to, "{name}: {value}\r\n"))
    }

    /// Reads the body that comes behind these headers, `None` where nothing says how long it is.
    fn read_body(&self, from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        if self.get("transfer-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = usize::from_str_radix(&read_line(from)?, 16).map_err(io::Error::other)?;
                let before = body.len();
                body.resize(before + size, 0);
                from.read_exact(&mut body[before..])?;
                read_line(from)?;
                if size == 0 {
                    return Ok(Some(body));
                }
            }
        }
        let Some(length) = self.get("content-length") else { return Ok(None) };
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        from.read_exact(&mut body)?;
        Ok(Some(body))
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path with its query, as they were sent.
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, headers: Headers::default(), body: Vec::new() }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    #[must_use]
    pub(crate) fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of a parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(other, _)| other == name).map(|(_, value)| value.into_owned())
    }

    /// Reads the next request, `None` where the client has no more.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let first = read_line(from)?;
        let mut words = first.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let headers = Headers::read(from)?;
        let body = headers.read_body(from)?.unwrap_or_default();
        Ok(Some(Self { headers, body, ..Self::new(method, target) }))
    }

    /// Sends it on a connection of its own, and reads the answer.
    pub(crate) fn send(&self, address: SocketAddr) -> io::Result<Response> {
        let stream = TcpStream::connect(address)?;
        // A server that was stopped keeps its connections.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut headers = self.headers.clone();
        for name in ["connection", "content-length", "transfer-encoding"] {
            headers.remove(name);
        }
        if headers.get("host").is_none() {
            headers.push("host", &address.to_string());
        }
        headers.push("connection", "close");
        headers.push("content-length", &self.body.len().to_string());
        // In one write: a server may close the connection between two.
        let mut message = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        headers.write(&mut message)?;
        message.extend_from_slice(b"\r\n");
        message.extend_from_slice(&self.body);
        (&stream).write_all(&message)?;
        Response::read(&mut BufReader::new(stream), self.method == "HEAD")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Headers::default(), body: body.into() }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    fn read(from: &mut impl BufRead, is_head: bool) -> io::Result<Self> {
        let first = read_line(from)?;
        let status = first.split(' ').nth(1).unwrap_or_default().parse().map_err(io::Error::other)?;
        let mut response = Self { status, headers: Headers::read(from)?, body: Vec::new() };
        if is_head || matches!(status, 204 | 304) {
            return Ok(response);
        }
        match response.headers.read_body(from)? {
            Some(body) => response.body = body,
            None => drop(from.read_to_end(&mut response.body)?),
        }
        Ok(response)
    }

    /// The status and the headers as they are sent. An answer to `HEAD` that was read keeps the length that it speaks of.
    pub(crate) fn head(&self, keeps_open: bool, has_length: bool) -> io::Result<Vec<u8>> {
        let mut headers = self.headers.clone();
        for name in ["connection", "transfer-encoding"] {
            headers.remove(name);
        }
        if !has_length {
            headers.remove("content-length");
        } else if !self.body.is_empty() || headers.get("content-length").is_none() {
            headers.remove("content-length");
            headers.push("content-length", &self.body.len().to_string());
        }
        headers.push("connection", if keeps_open { "keep-alive" } else { "close" });
        let mut head = format!("HTTP/1.1 {} -\r\n", self.status).into_bytes();
        headers.write(&mut head)?;
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }
}

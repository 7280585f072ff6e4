//! A small HTTP/1.1 server for tests, which can misbehave in all the ways that mirrors do.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

/// One request, as the handler sees it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The request's target: a path, or a whole URI where the server plays a proxy.
    pub(crate) path: String,
    /// Header fields, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// How many requests for the same path came before.
    pub(crate) earlier: usize,
    /// The connection, numbered from 0: keep-alive shows as the same number.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What the server does after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Sends the body.
    None,
    /// Closes the connection after so many bytes of the body.
    Cut(usize),
    /// Sends so many bytes of the body, then nothing more, with the connection open.
    Stall(usize),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) fault: Fault,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), fault: Fault::None }
    }

    pub(crate) fn redirect(location: &str) -> Reply {
        Reply::status(302).header("Location", location)
    }

    /// All of `content`, whatever range is asked for.
    pub(crate) fn whole(content: &[u8]) -> Reply {
        Reply { body: content.to_vec(), ..Reply::status(200) }
    }

    /// `content`, heeding `Range` and `If-Range`.
    pub(crate) fn file(request: &Request, content: &[u8]) -> Reply {
        let tag = format!("\"{}\"", crate::digest::Sha256::of(content));
        let start = request.header("range").and_then(|range| {
            let first = range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()?;
            request.header("if-range").is_none_or(|validator| validator == tag).then_some(first)
        });
        let reply = match start {
            Some(start) if start >= content.len() => {
                Reply::status(416).header("Content-Range", &format!("bytes */{}", content.len()))
            }
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
                Reply { body: content[start..].to_vec(), ..Reply::status(206) }
                    .header("Content-Range", &range)
            }
            None => Reply::whole(content),
        };
        reply.header("ETag", &tag)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn fault(mut self, fault: Fault) -> Reply {
        self.fault = fault;
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

#[derive(Default)]
struct State {
    log: Vec<Request>,
    counts: HashMap<String, usize>,
    connections: Vec<TcpStream>,
    over: bool,
}

/// The server; it ends, with its connections, when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let shared = state.clone();
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = shared.0.lock().unwrap();
                if state.over {
                    break;
                }
                let number = state.connections.len();
                state.connections.push(stream.try_clone().unwrap());
                drop(state);
                let (shared, handler) = (shared.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, number, &shared, &*handler));
            }
        });
        Server { address, state }
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://{}/{}", self.address, path.trim_start_matches('/'))
    }

    /// The requests so far.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.state.0.lock().unwrap().log.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut state = self.state.0.lock().unwrap();
        state.over = true;
        for connection in &state.connections {
            connection.shutdown(Shutdown::Both).ok();
        }
        drop(state);
        self.state.1.notify_all();
        TcpStream::connect(self.address).ok(); // wakes `accept`
    }
}

fn serve(mut stream: TcpStream, number: usize, shared: &(Mutex<State>, Condvar), handler: &Handler) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut lines, number, shared) {
        let reply = handler(&request);
        let mut head =
            format!("HTTP/1.1 {} Whatever\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let part = match reply.fault {
            Fault::None => reply.body.len(),
            Fault::Cut(count) | Fault::Stall(count) => count.min(reply.body.len()),
        };
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.body[..part]));
        if sent.is_err() {
            return;
        }
        match reply.fault {
            Fault::None => {}
            Fault::Cut(_) => {
                stream.shutdown(Shutdown::Both).ok();
                return;
            }
            Fault::Stall(_) => {
                let state = shared.0.lock().unwrap();
                let hour = Duration::from_secs(3600);
                drop(shared.1.wait_timeout_while(state, hour, |state| !state.over));
                return;
            }
        }
    }
}

fn read_request(
    lines: &mut impl BufRead,
    connection: usize,
    shared: &(Mutex<State>, Condvar),
) -> Option<Request> {
    let mut line = || {
        let mut text = String::new();
        lines.read_line(&mut text).ok().filter(|count| *count > 0)?;
        Some(text.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut state = shared.0.lock().unwrap();
    let count = state.counts.entry(path.clone()).or_default();
    let request = Request { path, headers, earlier: *count, connection };
    *count += 1;
    state.log.push(request.clone());
    Some(request)
}

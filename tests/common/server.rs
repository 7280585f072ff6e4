//! A loopback HTTP server for a miniature archive: it knows what was asked of it, and fails as told.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::common::archive::Files;

/// What goes wrong with a response.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status and no content.
    Status(u16),
    /// The right headers, and the connection is closed after so many bytes of the content.
    Disconnect(usize),
    /// Other content of the same length: each byte's lowest bit is flipped.
    Wrong,
    /// This content instead, with its own right length.
    Instead(Vec<u8>),
    /// A pause after each 16 KiB.
    Slow(Duration),
    /// Nothing at all until the server goes away.
    Hang,
}

/// One request that came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// Header names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    files: Files,
    /// (part of the path, what goes wrong, how often yet)
    faults: Vec<(String, Fault, usize)>,
    requests: Vec<Request>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // a test that fails while it holds the lock must not hide its own message
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the server stops, at most for `limit`; whether it has stopped.
    fn wait(&self, limit: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |state| !state.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }
}

/// A running server; it stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Serves these files on a free port.
    pub(crate) fn new(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
        let address = listener.local_addr().expect("a bound socket");
        let shared =
            Arc::new(Shared { state: Mutex::new(State { files, ..State::default() }), ..Shared::default() });
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if for_thread.lock().stopped {
                    break;
                }
                let shared = for_thread.clone();
                // the client may go away at any time: that is not an error of the server
                std::thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Server { address, shared }
    }

    /// The archive's URI.
    pub(crate) fn uri(&self) -> String {
        format!("http://{}/archive", self.address)
    }

    /// Replaces all files.
    pub(crate) fn publish(&self, files: Files) {
        self.shared.lock().files = files;
    }

    /// Replaces, adds or (with none) removes one file.
    pub(crate) fn put(&self, path: &str, data: Option<Vec<u8>>) {
        match data {
            Some(data) => self.shared.lock().files.insert(path.to_owned(), data.into()),
            None => self.shared.lock().files.remove(path),
        };
    }

    /// Injects a fault into the next `times` responses for paths that contain `part`.
    pub(crate) fn fault(&self, part: &str, fault: Fault, times: usize) {
        self.shared.lock().faults.push((part.to_owned(), fault, times));
    }

    /// Ends all faults.
    pub(crate) fn mend(&self) {
        self.shared.lock().faults.clear();
    }

    /// The requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.lock().requests)
    }

    /// How many debs were asked for since the last call of this or [`Server::take_requests`].
    pub(crate) fn take_deb_requests(&self) -> Vec<String> {
        let requests = self.take_requests().into_iter().map(|request| request.path);
        requests.filter(|path| path.ends_with(".deb")).collect()
    }

    /// Waits until a path that contains `part` was asked for.
    pub(crate) fn wait_for(&self, part: &str, limit: Duration) {
        let missing = |state: &mut State| !state.requests.iter().any(|request| request.path.contains(part));
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), limit, missing);
        assert!(!waited.unwrap_or_else(PoisonError::into_inner).1.timed_out(), "nobody asked for {part}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        // the listener wakes up for one more connection, and sees the flag
        drop(TcpStream::connect(self.address));
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let path = request.path.clone();
        let (content, fault) = {
            let mut state = shared.lock();
            state.requests.push(request.clone());
            let fault =
                state.faults.iter_mut().find(|(part, _, times)| *times > 0 && path.contains(part.as_str()));
            let fault = fault.map(|(_, fault, times)| {
                *times -= 1;
                fault.clone()
            });
            (path.strip_prefix("/archive/").and_then(|path| state.files.get(path)).cloned(), fault)
        };
        shared.changed.notify_all();
        let keep = respond(stream, shared, &request, content.as_deref(), fault)?;
        if !keep || shared.lock().stopped {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            // percent-encoding of the few characters that versions have and clients may encode
            let path = path.replace("%2b", "+").replace("%2B", "+").replace("%7e", "~").replace("%7E", "~");
            return Ok(Some(Request { path: path.replace("%3a", ":").replace("%3A", ":"), headers }));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

/// Writes one response; whether the connection can be used again.
fn respond(
    mut stream: &TcpStream,
    shared: &Shared,
    request: &Request,
    content: Option<&[u8]>,
    fault: Option<Fault>,
) -> io::Result<bool> {
    let (mut pause, mut cut) = (Duration::ZERO, usize::MAX);
    let mut status = if content.is_some() { 200 } else { 404 };
    let mut body = content.unwrap_or_default().to_vec();
    match fault {
        None => {}
        Some(Fault::Status(other)) => (status, body) = (other, Vec::new()),
        Some(Fault::Disconnect(after)) => cut = after,
        Some(Fault::Wrong) => body.iter_mut().for_each(|byte| *byte ^= 1),
        Some(Fault::Instead(other)) => body = other,
        Some(Fault::Slow(between)) => pause = between,
        Some(Fault::Hang) => {
            shared.wait(Duration::from_secs(600));
            return Ok(false);
        }
    }
    // content never changes under one path here but by `publish`, so its length will do as ETag
    let tag = format!("\"{}\"", body.len());
    let range =
        request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next());
    let range: Option<usize> = range.and_then(|start| start.parse().ok());
    let current = request.headers.get("if-range").is_none_or(|wanted| *wanted == tag);
    let mut range_header = String::new();
    if let (200, true, Some(start)) = (status, current, range.filter(|start| *start < body.len())) {
        range_header = format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len());
        body.drain(..start);
        status = 206;
    }
    write!(
        stream,
        "HTTP/1.1 {status} status\r\nContent-Length: {}\r\nETag: {tag}\r\nAccept-Ranges: bytes\r\n{range_header}\r\n",
        body.len()
    )?;
    for chunk in body[..cut.min(body.len())].chunks(16384) {
        stream.write_all(chunk)?;
        if pause > Duration::ZERO && shared.wait(pause) {
            return Ok(false);
        }
    }
    stream.flush()?;
    Ok(cut >= body.len())
}

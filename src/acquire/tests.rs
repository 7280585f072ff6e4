//! The transport against a server that misbehaves.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use super::{
    test_server::{Fault, Reply, Request, Server},
    *,
};

static NEVER: AtomicBool = AtomicBool::new(false);

fn acquire(stop: &AtomicBool) -> Acquire<'_> {
    Acquire::for_tests(false, stop)
}

fn quick() -> Patience {
    acquire(&NEVER).patience
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(700_000).collect()
}

fn wanted(uris: &[String], content: &[u8]) -> Wanted {
    Wanted {
        what: "the package test_1_all".into(),
        repository: "debian".into(),
        uris: uris.to_vec(),
        size: Some(content.len() as u64),
        sha256: Some(Sha256::of(content)),
        limit: 0,
    }
}

/// What one server makes of a whole download: the outcome, and its log.
fn outcome(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Result<Vec<u8>>, Vec<Request>) {
    let server = Server::start(handler);
    let result = acquire(&NEVER).get(&wanted(&[server.uri("a.deb")], &content()));
    (result, server.log())
}

fn ranges(log: &[Request]) -> Vec<Option<&str>> {
    log.iter().map(|request| request.header("range")).collect()
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let (result, log) = outcome(|request| {
        let reply = Reply::file(request, &content());
        if request.earlier < 2 { reply.fault(Fault::Cut(200_000)) } else { reply }
    });
    assert_eq!(result.unwrap(), content());
    assert_eq!(ranges(&log), [None, Some("bytes=200000-"), Some("bytes=400000-")]);
    let tag = format!("\"{}\"", Sha256::of(&content()));
    assert_eq!(log[1].header("if-range"), Some(tag.as_str()));
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let (result, log) = outcome(|request| {
        let reply = Reply::whole(&content());
        if request.earlier == 0 { reply.fault(Fault::Cut(200_000)) } else { reply }
    });
    assert_eq!(result.unwrap(), content());
    assert_eq!(ranges(&log), [None, Some("bytes=200000-")]);
}

#[test]
fn a_reader_sees_one_stream() {
    let server = Server::start(|request| {
        let reply = Reply::file(request, &content());
        if request.earlier == 0 { reply.fault(Fault::Cut(200_000)) } else { reply }
    });
    let acquire = acquire(&NEVER);
    let wanted = wanted(&[server.uri("a.deb")], &content());
    let mut calls = 0;
    let bytes = acquire.deliver(&wanted, &mut |stream| {
        calls += 1;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    assert_eq!((bytes.unwrap(), calls), (content(), 1));
}

#[test]
fn trouble_that_passes() {
    type Trouble = fn(&Request) -> Option<Reply>;
    let troubles: [(&str, Trouble); 5] = [
        ("503", |_| Some(Reply::status(503))),
        ("429 with Retry-After", |_| Some(Reply::status(429).header("Retry-After", "1000000"))),
        ("stalled header", |_| Some(Reply::whole(&content()).fault(Fault::Stall(0)))),
        ("stalled body", |request| Some(Reply::file(request, &content()).fault(Fault::Stall(100_000)))),
        ("cut before the body", |request| Some(Reply::file(request, &content()).fault(Fault::Cut(0)))),
    ];
    for (name, trouble) in troubles {
        let (result, log) = outcome(move |request| {
            let reply = (request.earlier < 2).then(|| trouble(request)).flatten();
            reply.unwrap_or_else(|| Reply::file(request, &content()))
        });
        assert_eq!(result.unwrap(), content(), "{name}");
        assert_eq!(log.len(), 3, "{name}");
    }
}

#[test]
fn what_goes_wrong_is_told_apart() {
    let longer = || [content(), vec![0]].concat();
    let changed = || {
        let mut bytes = content();
        bytes[600_000] ^= 1;
        bytes
    };
    type Handler = Box<dyn Fn(&Request) -> Reply + Send + Sync>;
    let table: Vec<(Handler, usize, &str, &str)> = vec![
        (Box::new(|_| Reply::status(404)), 1, "there is no such file (HTTP 404)", "treestrap lock --update"),
        (Box::new(|_| Reply::status(403)), 1, "access denied (HTTP 403)", "credentials"),
        (Box::new(|_| Reply::status(500)), 4, "the server answered HTTP 500", "another mirror"),
        (Box::new(|_| Reply::status(418)), 1, "the server answered HTTP 418", ""),
        (
            Box::new(|r| Reply::file(r, &content()[..650_000])),
            1,
            "wrong size: 650000 bytes instead of 700000",
            "another mirror",
        ),
        (Box::new(move |r| Reply::file(r, &longer())), 1, "wrong size: 700001 bytes", "another mirror"),
        (Box::new(move |r| Reply::file(r, &changed())), 1, "wrong content: its SHA-256 is", "another mirror"),
        (
            // Claims the right length, and always ends early.
            Box::new(|r| Reply::file(r, &content()).fault(Fault::Cut(0))),
            4,
            "the connection broke",
            "check the network",
        ),
        (Box::new(|_| Reply::redirect("a.deb")), 11, "redirected more than 10 times", ""),
        (Box::new(|_| Reply::redirect("ftp://mirror.example/a.deb")), 1, "redirected to nowhere", ""),
    ];
    for (handler, requests, message, hint) in table {
        let (result, log) = outcome(handler);
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(message), "{text}");
        let start = "cannot get the package test_1_all of repository debian: http://127.0.0.1:";
        assert!(text.starts_with(start), "{text}");
        assert!(error.get_hint().unwrap_or_default().contains(hint), "{error:?}");
        assert_eq!((error.kind(), log.len()), (Kind::Input, requests), "{text}");
    }
}

#[test]
fn chunks_without_a_length() {
    let content = content();
    // No Content-Length at all: the end of the connection is the end of the body.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/a.deb", listener.local_addr().unwrap());
    let body = content.clone();
    let server = std::thread::spawn(move || {
        // First cut short, which only the expected size shows; then whole.
        for part in [&body[..200_000], &body[..]] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            use std::io::Write;
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
            stream.write_all(part).unwrap();
        }
    });
    assert_eq!(acquire(&NEVER).get(&wanted(&[uri], &content)).unwrap(), content);
    server.join().unwrap();
}

#[test]
fn another_mirror_takes_over() {
    let good = Server::start(|request| Reply::file(request, &content()));
    type Handler = fn(&Request) -> Reply;
    let bad: [(&str, Handler); 6] = [
        ("absent", |_| Reply::status(404)),
        ("busy", |_| Reply::status(503)),
        ("wrong content", |_| Reply::whole(&vec![b'x'; content().len()])),
        ("wrong size", |_| Reply::whole(b"<html>please log in</html>")),
        ("breaks off", |request| match request.earlier {
            0 => Reply::file(request, &content()).fault(Fault::Cut(300_000)),
            _ => Reply::status(404),
        }),
        ("breaks off, then lies", |request| match request.earlier {
            0 => Reply::whole(&vec![b'x'; content().len()]).fault(Fault::Cut(300_000)),
            _ => Reply::status(404),
        }),
    ];
    for (name, handler) in bad {
        let bad = Server::start(handler);
        let vanished = "http://127.0.0.1:1/a.deb".to_owned();
        let uris = [vanished, bad.uri("a.deb"), good.uri("a.deb")];
        let result = acquire(&NEVER).get(&wanted(&uris, &content()));
        assert_eq!(result.unwrap(), content(), "{name}");
    }
}

#[test]
fn the_first_of_two_wrong_mirrors_is_named_too() {
    let absent = Server::start(|_| Reply::status(404));
    let wrong = Server::start(|_| Reply::whole(&vec![b'x'; content().len()]));
    let uris = [wrong.uri("a.deb"), absent.uri("a.deb")];
    let text = acquire(&NEVER).get(&wanted(&uris, &content())).unwrap_err().to_string();
    assert!(text.contains(&format!("{}: wrong content", uris[0])), "{text}");
    assert!(text.contains(&format!("{}: there is no such file", uris[1])), "{text}");
}

#[test]
fn a_reader_never_gets_the_last_bytes_of_wrong_content() {
    let mut changed = content();
    changed[0] ^= 1;
    let server = Server::start(move |_| Reply::whole(&changed));
    let acquire = acquire(&NEVER);
    let wanted = wanted(&[server.uri("a.deb")], &content());
    let mut download = acquire.open(&wanted).unwrap();
    let mut bytes = vec![0; content().len()];
    let error = download.read_exact(&mut bytes).unwrap_err();
    assert!(error.to_string().contains("wrong content"), "{error}");
}

#[test]
fn connections_are_kept() {
    let server = Server::start(|request| match request.path.as_str() {
        "/moved.deb" => Reply::redirect("/a.deb"),
        _ => Reply::file(request, &content()),
    });
    let acquire = acquire(&NEVER);
    for path in ["a.deb", "moved.deb", "a.deb"] {
        assert_eq!(acquire.get(&wanted(&[server.uri(path)], &content())).unwrap(), content());
    }
    let connections: Vec<_> = server.log().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 0, 0]);
}

#[test]
fn credentials_are_sent_but_never_shown() {
    let elsewhere = Server::start(|request| match request.header("authorization") {
        None => Reply::file(request, &content()),
        Some(_) => Reply::status(400),
    });
    let target = elsewhere.uri("a.deb");
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Basic dXNlcjpwQHNz") if request.path == "/a.deb" => Reply::file(request, &content()),
        Some("Basic dXNlcjpwQHNz") => Reply::redirect(&target),
        _ => Reply::status(401),
    });
    let with = |credentials: &str, path: &str| {
        server.uri(path).replace("http://", &format!("http://{credentials}@"))
    };
    for path in ["a.deb", "elsewhere"] {
        let result = acquire(&NEVER).get(&wanted(&[with("user:p%40ss", path)], &content()));
        assert_eq!(result.unwrap(), content(), "{path}");
    }
    let text =
        acquire(&NEVER).get(&wanted(&[with("user:wrong", "a.deb")], &content())).unwrap_err().to_string();
    assert!(text.contains("HTTP 401") && !text.contains("wrong") && !text.contains("user"), "{text}");
}

#[test]
fn plain_http_through_a_proxy_is_in_absolute_form() {
    let server = Server::start(|request| match request.path.as_str() {
        "http://mirror.example/debian/a.deb" => Reply::file(request, &content()),
        _ => Reply::status(400),
    });
    let proxy = server.uri("").replace("http://", "http://me:secret@");
    let environment = |name: &str| (name == "http_proxy").then(|| proxy.clone());
    let settings = proxy::Settings::from_environment(environment);
    let acquire = Acquire::with_settings(false, &NEVER, quick(), settings);
    for _ in 0..2 {
        let wanted = wanted(&["http://mirror.example/debian/a.deb".into()], &content());
        assert_eq!(acquire.get(&wanted).unwrap(), content());
    }
    let log = server.log();
    assert_eq!(log[0].header("host"), Some("mirror.example"));
    assert_eq!(log[0].header("proxy-authorization"), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(log[0].header("user-agent"), Some(concat!("treestrap/", env!("CARGO_PKG_VERSION"))));
    assert_eq!((log[1].connection, log.len()), (0, 2));

    drop(server);
    let wanted = wanted(&["http://mirror.example/debian/a.deb".into()], &content());
    let text = acquire.get(&wanted).unwrap_err().to_string();
    assert!(
        text.contains("cannot connect: the proxy http://127.0.0.1:") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn https_through_a_proxy_is_a_tunnel() {
    let server = Server::start(|_| Reply::status(403));
    let proxy = server.uri("");
    let settings = proxy::Settings::from_environment(|name| (name == "all_proxy").then(|| proxy.clone()));
    let acquire = Acquire::with_settings(false, &NEVER, quick(), settings);
    let wanted = wanted(&["https://mirror.example/a.deb".into()], &content());
    let text = acquire.get(&wanted).unwrap_err().to_string();
    assert!(text.contains("the proxy http://127.0.0.1:"), "{text}");
    assert_eq!(server.log()[0].path, "mirror.example:443");
}

#[test]
fn unreachable_and_unknown_hosts() {
    let get = |uri: &str| acquire(&NEVER).get(&wanted(&[uri.to_owned()], &content())).unwrap_err();
    let text = get("http://127.0.0.1:1/a.deb").to_string();
    assert!(text.contains("http://127.0.0.1:1/a.deb: cannot connect: "), "{text}");
    // RFC 6761: .invalid never resolves.
    let error = get("http://nowhere.invalid/a.deb");
    assert!(error.to_string().contains("the host name nowhere.invalid cannot be resolved"), "{error}");
    assert!(error.get_hint().unwrap().contains("[repos.debian]"));
    assert!(get("cdrom:[x]/a.deb").to_string().contains("not a URI that can be fetched"));
}

#[test]
fn local_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b+%41.deb");
    std::fs::write(&path, content()).unwrap();
    // Offline or not makes no difference to a file.
    let acquire = Acquire::with_settings(true, &NEVER, quick(), proxy::Settings::default());
    let uri = uri::of_file(&path);
    assert_eq!(acquire.get(&wanted(&[uri.replace("file:", "copy:")], &content())).unwrap(), content());
    let wrong = acquire.get(&wanted(std::slice::from_ref(&uri), b"x")).unwrap_err().to_string();
    assert!(wrong.contains("wrong size: 700000 bytes instead of 1"), "{wrong}");
    std::fs::remove_file(&path).unwrap();
    let absent = acquire.get(&wanted(&[uri], &content())).unwrap_err().to_string();
    assert!(absent.contains("there is no such file"), "{absent}");
}

#[test]
fn offline_is_an_error_with_a_way_out() {
    let server = Server::start(|request| Reply::file(request, &content()));
    let acquire = Acquire::with_settings(true, &NEVER, quick(), proxy::Settings::default());
    let error = acquire.get(&wanted(&[server.uri("a.deb")], &content())).unwrap_err();
    assert!(error.to_string().contains("the package test_1_all"), "{error}");
    assert!(error.get_hint().unwrap().contains("without --offline"));
    assert!(server.log().is_empty());
}

#[test]
fn what_has_no_size_is_limited() {
    let server = Server::start(|request| Reply::file(request, &content()));
    let endless =
        Wanted { size: None, sha256: None, limit: 100_000, ..wanted(&[server.uri("InRelease")], &[]) };
    let text = acquire(&NEVER).get(&endless).unwrap_err().to_string();
    assert!(text.contains("wrong size"), "{text}");
    let enough = Wanted { limit: 700_000, ..endless };
    assert_eq!(acquire(&NEVER).get(&enough).unwrap(), content());
}

#[test]
fn a_stop_ends_a_blocked_read() {
    let server = Server::start(|request| Reply::file(request, &content()).fault(Fault::Stall(100_000)));
    let stop = AtomicBool::new(false);
    let patience = Patience { stall: Duration::from_secs(600), ..quick() };
    let acquire = Acquire::with_settings(false, &stop, patience, proxy::Settings::default());
    let wanted = wanted(&[server.uri("a.deb")], &content());
    let result = parallel(&acquire, 1, 1, |take| {
        while take().is_some() {
            acquire
                .deliver(&wanted, &mut |stream| {
                    let mut buffer = [0; 100_000];
                    stream.read_exact(&mut buffer)?;
                    stop.store(true, Ordering::Relaxed); // Ctrl-C, just before the read that blocks
                    stream.read_exact(&mut buffer)?;
                    Ok(())
                })
                .map_err(Error::from)?;
        }
        Ok(())
    });
    assert_eq!(result.unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn one_failure_ends_the_others() {
    let server = Server::start(|request| match request.path.as_str() {
        "/bad.deb" => Reply::status(404),
        _ => Reply::file(request, &content()).fault(Fault::Stall(100_000)),
    });
    let patience = Patience { stall: Duration::from_secs(600), ..quick() };
    let acquire = Acquire::with_settings(false, &NEVER, patience, proxy::Settings::default());
    let begun = AtomicUsize::new(0);
    let result = parallel(&acquire, 3, 100, |take| {
        while let Some(index) = take() {
            begun.fetch_add(1, Ordering::Relaxed);
            let path = if index == 2 { "bad.deb" } else { "good.deb" };
            acquire.get(&wanted(&[server.uri(path)], &content()))?;
        }
        Ok(())
    });
    let error = result.unwrap_err();
    assert!(error.to_string().contains("bad.deb: there is no such file"), "{error}");
    assert_eq!((error.kind(), begun.into_inner()), (Kind::Input, 3));
    assert!(!acquire.renewed().is_stopped());
}

//! `--trace FILE`: what took how long, as a timeline that Perfetto and Chrome open.
//!
//! The format is the Trace Event Format of Chrome's tracing, complete events (`"ph": "X"`) alone: an image is a
//! process, its stages and their steps, downloads, packages and programs are threads of it. What overlaps without one being
//! inside the other has threads of its own.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use crate::{
    Context, Result,
    report::{Span, SpanKind},
};

/// The names of threads, in the order in which they are shown.
const THREADS: [(SpanKind, &str); 6] = [
    (SpanKind::Stage, "stages"),
    (SpanKind::Download, "downloads"),
    (SpanKind::Package, "packages"),
    (SpanKind::Program, "programs"),
    (SpanKind::Step, "steps"),
    (SpanKind::Wait, "waits"),
];

/// Threads of one kind in a process have numbers from this times the kind's place on.
const KIND: usize = 1000;

/// A timeline that is being gathered.
pub(super) struct Trace {
    path: PathBuf,
    spans: Mutex<Vec<Span>>,
}

impl Trace {
    /// Will be written here.
    pub(super) fn new(path: &Path) -> Self {
        Trace { path: path.to_owned(), spans: Mutex::default() }
    }

    pub(super) fn add(&self, span: Span) {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// Writes it.
    pub(super) fn write(&self) -> Result<()> {
        let writing = || format!("writing {}", self.path.display());
        let spans = std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner));
        let mut file = BufWriter::new(File::create(&self.path).with_context(writing)?);
        let trace = json!({ "displayTimeUnit": "ms", "traceEvents": events(spans) });
        serde_json::to_writer(&mut file, &trace).map_err(std::io::Error::from).with_context(writing)?;
        file.flush().with_context(writing)
    }
}

fn events(mut spans: Vec<Span>) -> Vec<Value> {
    // What holds others comes before them.
    spans.sort_by(|a, b| a.begun.total_cmp(&b.begun).then(b.ended.total_cmp(&a.ended)));
    let start = spans.first().map_or(0.0, |span| span.begun);
    let microseconds = |time: f64| ((time - start) * 1e6).round();
    let mut images: BTreeMap<String, usize> = BTreeMap::new();
    let mut lanes: BTreeMap<(usize, SpanKind), Vec<Vec<f64>>> = BTreeMap::new();
    let mut events = Vec::with_capacity(spans.len());
    for span in &spans {
        let next = images.len() + 1;
        let process = *images.entry(span.image.clone()).or_insert(next);
        let lane = lane(lanes.entry((process, span.kind)).or_default(), span);
        let place = THREADS.iter().position(|(kind, _)| *kind == span.kind).unwrap_or(0);
        events.push(json!({
            "name": span.name,
            "cat": THREADS[place].1,
            "ph": "X",
            "ts": microseconds(span.begun),
            "dur": microseconds(span.ended) - microseconds(span.begun),
            "pid": process,
            "tid": place * KIND + lane,
            "args": { "about": span.about },
        }));
    }
    let name = |what: &str, pid: usize, tid: usize, name: &str| json!({ "name": what, "ph": "M", "pid": pid, "tid": tid, "args": { "name": name } });
    for (image, &process) in &images {
        events.push(name("process_name", process, 0, if image.is_empty() { "treestrap" } else { image }));
    }
    for ((process, kind), lanes) in &lanes {
        let place = THREADS.iter().position(|(known, _)| known == kind).unwrap_or(0);
        for lane in 0..lanes.len() {
            events.push(name("thread_name", *process, place * KIND + lane, THREADS[place].1));
        }
    }
    events
}

/// The first thread in which nothing overlaps with a span but what holds it. Each has the ends of what is
/// open in it, innermost last.
fn lane(lanes: &mut Vec<Vec<f64>>, span: &Span) -> usize {
    for (number, open) in lanes.iter_mut().enumerate() {
        while open.last().is_some_and(|&end| end <= span.begun) {
            open.pop();
        }
        if open.last().is_none_or(|&end| span.ended <= end) {
            open.push(span.ended);
            return number;
        }
    }
    lanes.push(vec![span.ended]);
    lanes.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(kind: SpanKind, name: &str, begun: f64, ended: f64) -> Span {
        Span { image: "board".into(), kind, name: name.into(), about: String::new(), begun, ended }
    }

    #[test]
    fn what_overlaps_has_threads_of_its_own() {
        use SpanKind::{Download, Program, Stage};
        let spans = vec![
            span(Program, "child", 11.0, 12.0),
            span(Program, "parent", 10.0, 13.0),
            span(Program, "beside", 11.5, 14.0),
            span(Program, "later", 13.0, 15.0),
            span(Stage, "configure", 9.5, 15.0),
            span(Download, "bash", 1.0, 2.0),
        ];
        let events = events(spans);
        let thread = |name: &str| {
            let event = events.iter().find(|event| event["name"] == name).expect(name);
            (event["tid"].as_u64().expect("a number"), event["ts"].as_f64(), event["dur"].as_f64())
        };
        assert_eq!(thread("bash"), (1000, Some(0.0), Some(1e6)));
        assert_eq!(thread("configure"), (0, Some(8.5e6), Some(5.5e6)));
        assert_eq!(thread("parent"), (3000, Some(9e6), Some(3e6)));
        assert_eq!(thread("child").0, 3000, "inside its parent");
        assert_eq!(thread("beside").0, 3001, "neither inside nor after");
        assert_eq!(thread("later").0, 3000);
        let names: Vec<&str> = events
            .iter()
            .filter(|event| event["ph"] == "M")
            .filter_map(|e| e["args"]["name"].as_str())
            .collect();
        assert_eq!(names, ["board", "stages", "downloads", "programs", "programs"]);
    }
}

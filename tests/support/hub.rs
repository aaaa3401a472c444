//! A small hub on loopback that speaks the Hugging Face hub's HTTP, well-behaved or not: lists with checksums, files by
//! redirect to another path (as to its content network), ranges, entity tags, refusals, and connections that break.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// A hub that lasts as long as the tests.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

type Shared = Mutex<State>;

#[derive(Default)]
struct State {
    files: HashMap<(String, String), RemoteFile>,
    requests: Vec<Request>,
    refusals: HashMap<String, (u16, &'static str)>,
    token: Option<&'static str>,
    terse: bool,
    ignores_ranges: bool,
    described: Value,
    busy: usize,
    commit: u32,
}

#[derive(Clone)]
struct RemoteFile {
    content: Arc<Vec<u8>>,
    /// What the hub says of it, where that is not the truth.
    claimed: Option<(u64, String)>,
    cuts: Vec<Cut>,
}

/// How answers with this file go wrong, one after the other.
#[derive(Clone, Copy)]
pub(crate) enum Cut {
    /// The connection ends behind so many bytes of the answer.
    After(usize),
    /// It stays open and nothing more comes, until the client has gone.
    StallAfter(usize),
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

impl Hub {
    pub(crate) fn start() -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hub = Hub {
            address: listener.local_addr().expect("an address"),
            shared: Arc::default(),
        };
        let shared = hub.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A client that goes away in the middle is what some tests are about.
                    let _gone = serve(&shared, stream);
                });
            }
        });
        hub
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, repository: &str, path: &str, content: impl Into<Vec<u8>>) {
        let file = RemoteFile {
            content: Arc::new(content.into()),
            claimed: None,
            cuts: Vec::new(),
        };
        let mut state = self.state();
        state.commit += 1;
        state.files.insert((repository.to_owned(), path.to_owned()), file);
    }

    fn change(&self, repository: &str, path: &str, change: impl FnOnce(&mut RemoteFile)) {
        let mut state = self.state();
        let file = state.files.get_mut(&(repository.to_owned(), path.to_owned()));
        change(file.expect("a file that was put"));
    }

    /// From now on another content is claimed than is given.
    pub(crate) fn claim(&self, repository: &str, path: &str, bytes: u64, sha256: &str) {
        self.change(repository, path, |file| {
            file.claimed = Some((bytes, sha256.to_owned()))
        });
    }

    pub(crate) fn cut(&self, repository: &str, path: &str, cuts: &[Cut]) {
        self.change(repository, path, |file| file.cuts = cuts.to_vec());
    }

    /// With the hub's word for why, in the header `X-Error-Code`.
    pub(crate) fn refuse(&self, repository: &str, status: u16, code: &'static str) {
        self.state()
            .refusals
            .insert(repository.to_owned(), (status, code));
    }

    /// Only whoever shows it gets anything.
    pub(crate) fn want_token(&self, token: &'static str) {
        self.state().token = Some(token);
    }

    /// Lists say names only: lengths and checksums stand in the headers of the files.
    pub(crate) fn be_terse(&self) {
        self.state().terse = true;
    }

    pub(crate) fn ignore_ranges(&self) {
        self.state().ignores_ranges = true;
    }

    /// What the hub says that it found in the model.
    pub(crate) fn describe(&self, described: Value) {
        self.state().described = described;
    }

    /// So many requests are answered by 503.
    pub(crate) fn be_busy(&self, times: usize) {
        self.state().busy = times;
    }

    /// What was asked of a path with this ending, in order.
    pub(crate) fn requests(&self, ending: &str) -> Vec<Request> {
        let state = self.state();
        let fitting = state
            .requests
            .iter()
            .filter(|request| request.path.ends_with(ending));
        fitting.cloned().collect()
    }
}

/// One request, and the end of the connection.
fn serve(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let target = first.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let (mut range, mut authorization) = (None, None);
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "range" => range = Some(value.trim().to_owned()),
                "authorization" => authorization = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }
    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests.push(Request {
        path: path.clone(),
        range: range.clone(),
        authorization: authorization.clone(),
    });
    if state.busy > 0 {
        state.busy -= 1;
        drop(state);
        return answer(&mut stream, "503 Busy", "Retry-After: 0\r\n", b"");
    }
    // The content network asks for nothing: its addresses are signed.
    if let Some(rest) = path.strip_prefix("/cdn/") {
        let (owner, rest) = rest.split_once('/').unwrap_or_default();
        let (name, file) = rest.split_once('/').unwrap_or_default();
        let key = (format!("{owner}/{name}"), file.to_owned());
        let ignores_ranges = state.ignores_ranges;
        let Some(file) = state.files.get_mut(&key) else {
            return answer(&mut stream, "404 Not Found", "", b"");
        };
        let cut = (!file.cuts.is_empty()).then(|| file.cuts.remove(0));
        let content = file.content.clone();
        drop(state);
        let range = range.filter(|_| !ignores_ranges);
        return content_of(&mut stream, &content, range.as_deref(), cut);
    }
    if let Some(token) = state.token
        && authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return answer(
            &mut stream,
            "401 Unauthorized",
            "X-Error-Code: RepoNotFound\r\n",
            b"",
        );
    }
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let parts: Vec<&str> = rest.split('/').collect();
        let repository = parts.iter().take(2).copied().collect::<Vec<_>>().join("/");
        if let Some((status, code)) = state.refusals.get(&repository) {
            return answer(
                &mut stream,
                &format!("{status} Refused"),
                &format!("X-Error-Code: {code}\r\n"),
                b"",
            );
        }
        let files: Vec<(&String, &RemoteFile)> = state
            .files
            .iter()
            .filter(|((of, _), _)| *of == repository)
            .map(|((_, path), file)| (path, file))
            .collect();
        if files.is_empty() || (state.terse && parts.len() > 2) {
            return answer(
                &mut stream,
                "404 Not Found",
                "X-Error-Code: RepoNotFound\r\n",
                b"",
            );
        }
        let json = match parts.get(2) {
            None => info(&repository, &files, &state),
            Some(_) => tree(&files),
        };
        return answer(
            &mut stream,
            "200 OK",
            "Content-Type: application/json\r\n",
            json.to_string().as_bytes(),
        );
    }
    let found = path.trim_start_matches('/').split_once("/resolve/main/");
    let file =
        found.and_then(|(of, path)| Some((of, path, state.files.get(&(of.to_owned(), path.to_owned()))?)));
    let Some((repository, path, file)) = file else {
        return answer(
            &mut stream,
            "404 Not Found",
            "X-Error-Code: EntryNotFound\r\n",
            b"",
        );
    };
    if !is_large(path) {
        // Small files are given by the hub itself.
        let headers = format!(
            "X-Repo-Commit: {:040x}\r\nETag: \"{}\"\r\n",
            state.commit,
            git_checksum(&file.content)
        );
        return answer(&mut stream, "200 OK", &headers, &file.content);
    }
    let (bytes, sha256) = file.facts();
    // Another name of this machine's, as the content network has another than the hub.
    let port = stream.local_addr()?.port();
    let headers = format!(
        "Location: http://localhost:{port}/cdn/{repository}/{path}\r\nX-Repo-Commit: {:040x}\r\nX-Linked-Size: {bytes}\r\nX-Linked-ETag: \
         \"{sha256}\"\r\nETag: \"of-the-pointer\"\r\nAccept-Ranges: bytes\r\n",
        state.commit
    );
    answer(&mut stream, "302 Found", &headers, b"")
}

fn info(repository: &str, files: &[(&String, &RemoteFile)], state: &State) -> Value {
    let sibling = |(path, file): &(&String, &RemoteFile)| {
        if state.terse {
            return json!({"rfilename": path});
        }
        let (bytes, sha256) = file.facts();
        if is_large(path) {
            let lfs = json!({"sha256": sha256, "size": bytes, "pointerSize": 130});
            return json!({"rfilename": path, "size": bytes, "blobId": "00".repeat(20), "lfs": lfs});
        }
        json!({"rfilename": path, "size": bytes, "blobId": git_checksum(&file.content)})
    };
    let mut info = json!({
        "id": repository,
        "sha": format!("{:040x}", state.commit),
        "gated": false,
        "siblings": files.iter().map(sibling).collect::<Vec<_>>(),
    });
    for (key, value) in state.described.as_object().into_iter().flatten() {
        info[key] = value.clone();
    }
    info
}

fn tree(files: &[(&String, &RemoteFile)]) -> Value {
    let leaf = |(path, file): &(&String, &RemoteFile)| {
        let (bytes, sha256) = file.facts();
        json!({"type": "file", "path": path, "size": bytes, "oid": "00".repeat(20), "lfs": {"oid": sha256, "size": bytes}})
    };
    files.iter().map(leaf).collect::<Vec<_>>().into()
}

impl RemoteFile {
    fn facts(&self) -> (u64, String) {
        let truth = || (self.content.len() as u64, sha256(&self.content));
        self.claimed.clone().unwrap_or_else(truth)
    }
}

/// What the hub keeps beside git.
fn is_large(path: &str) -> bool {
    [".gguf", ".safetensors", ".bin"]
        .iter()
        .any(|ending| path.ends_with(ending))
}

/// As `git hash-object` has it.
fn git_checksum(content: &[u8]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", content.len()).as_bytes());
    context.update(content);
    hex(context.finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}

pub(crate) fn sha256(content: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, content).as_ref())
}

fn content_of(
    stream: &mut TcpStream,
    content: &[u8],
    range: Option<&str>,
    cut: Option<Cut>,
) -> std::io::Result<()> {
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let from = bounds.and_then(|(from, _)| from.parse::<usize>().ok());
    let (status, headers, body) = match from {
        None => ("200 OK", String::new(), content),
        Some(from) if from >= content.len() => {
            let headers = format!("Content-Range: bytes */{}\r\n", content.len());
            return answer(stream, "416 Range Not Satisfiable", &headers, b"");
        }
        Some(from) => {
            let last = content.len() - 1;
            let to = bounds
                .and_then(|(_, to)| to.parse().ok())
                .map_or(last, |to: usize| to.min(last));
            let headers = format!("Content-Range: bytes {from}-{to}/{}\r\n", content.len());
            ("206 Partial Content", headers, &content[from..=to])
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    match cut {
        None => stream.write_all(body),
        Some(Cut::After(bytes)) => stream.write_all(&body[..bytes.min(body.len())]),
        Some(Cut::StallAfter(bytes)) => {
            stream.write_all(&body[..bytes.min(body.len())])?;
            // A client that ends closes its side, which ends this.
            while stream.read(&mut [0; 64])? > 0 {}
            Ok(())
        }
    }
}

fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

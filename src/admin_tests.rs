//! The status socket, from both sides.

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::*;

fn data_dir() -> (tempfile::TempDir, DataDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::prepare(temp.path()).unwrap();
    (temp, dir)
}

/// Runs a client beside a daemon that knows `status` and refuses the rest.
async fn beside_a_daemon<T>(dir: &DataDir, client: impl Future<Output = T>) -> T {
    let listener = AdminListener::bind(dir).unwrap();
    let handler = |request: AdminRequest| async move {
        match request.command.as_str() {
            "status" => Ok(json!({"uptime_s": 1, "arguments": request.arguments})),
            other => Err(format!("unknown command {other}")),
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    LocalSet::new()
        .run_until(async {
            let server = tokio::task::spawn_local(listener.serve(handler, async move {
                let _ = stopped.await;
            }));
            let result = client.await;
            stop.send(()).unwrap();
            server.await.unwrap();
            result
        })
        .await
}

/// Sends raw bytes and gives back all that comes.
async fn raw(dir: &DataDir, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(dir.socket()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_question_is_answered_with_data() {
    let (_temp, dir) = data_dir();
    let status = beside_a_daemon(&dir, ask(&dir, &AdminRequest::new("status")))
        .await
        .unwrap();
    assert_eq!(status["uptime_s"], 1);
}

#[tokio::test]
async fn a_refusal_comes_back_as_the_daemon_worded_it() {
    let (_temp, dir) = data_dir();
    let error = beside_a_daemon(&dir, ask(&dir, &AdminRequest::new("dance")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("unknown command dance"), "{error}");
}

#[tokio::test]
async fn answers_have_the_form_of_the_bridge_and_echo_the_transaction() {
    let (_temp, dir) = data_dir();
    let two = b"{\"command\":\"status\",\"transaction\":7,\"deep\":true}\n{\"command\":\"x\"}\n";
    let lines = beside_a_daemon(&dir, raw(&dir, two)).await;
    let answers: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let data = json!({"uptime_s": 1, "arguments": {"deep": true}});
    assert_eq!(
        answers[0],
        json!({"status": "ok", "data": data, "transaction": 7})
    );
    assert_eq!(
        answers[1],
        json!({"status": "error", "error": "unknown command x"})
    );
}

#[tokio::test]
async fn nonsense_gets_an_error_and_an_endless_line_gets_cut_off() {
    let (_temp, dir) = data_dir();
    let answer = beside_a_daemon(&dir, raw(&dir, b"hello\n")).await;
    assert!(
        answer.contains("\"status\":\"error\"") && answer.contains("not a JSON object"),
        "{answer}"
    );

    let endless = vec![b'x'; MAX_LINE_BYTES as usize + 100];
    let outcome = beside_a_daemon(&dir, async {
        let mut stream = UnixStream::connect(dir.socket()).await.unwrap();
        let _ = stream.write_all(&endless).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    })
    .await;
    assert_eq!(outcome, "");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone_and_goes_with_the_daemon() {
    let (_temp, dir) = data_dir();
    let listener = AdminListener::bind(&dir).unwrap();
    assert_eq!(
        fs::metadata(dir.socket()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(listener);
    assert!(!dir.socket().exists());
}

#[tokio::test]
async fn a_second_daemon_on_the_same_directory_is_refused_and_harms_nothing() {
    let (_temp, dir) = data_dir();
    let second = beside_a_daemon(&dir, async {
        let refused = AdminListener::bind(&dir).unwrap_err();
        ask(&dir, &AdminRequest::new("status")).await.unwrap();
        refused
    })
    .await;
    let message = second.to_string();
    assert!(
        message.contains(&format!("process {}", std::process::id())),
        "{message}"
    );
    assert!(message.contains("--data-dir"), "{message}");
}

#[tokio::test]
async fn the_socket_of_a_killed_daemon_is_replaced() {
    let (_temp, dir) = data_dir();
    // A listener that is closed without removing its name, as kill -9 leaves it.
    drop(std::os::unix::net::UnixListener::bind(dir.socket()).unwrap());
    assert!(dir.socket().exists());
    assert!(matches!(
        ask(&dir, &AdminRequest::new("status")).await,
        Err(AdminError::NotRunning(_))
    ));
    beside_a_daemon(&dir, ask(&dir, &AdminRequest::new("status")))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_socket_on_which_a_stranger_answers_is_left_alone() {
    let (_temp, dir) = data_dir();
    let _stranger = std::os::unix::net::UnixListener::bind(dir.socket()).unwrap();
    assert!(matches!(
        AdminListener::bind(&dir),
        Err(AdminError::AlreadyRunning { .. })
    ));
    assert!(dir.socket().exists());
}

#[tokio::test]
async fn without_a_daemon_the_client_says_how_to_start_one() {
    let (_temp, dir) = data_dir();
    let error = ask(&dir, &AdminRequest::new("status")).await.unwrap_err();
    assert!(error.to_string().contains("clawdbot serve"), "{error}");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_refused_with_the_setting_to_change() {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::prepare(&temp.path().join("x".repeat(100))).unwrap();
    let error = AdminListener::bind(&dir).unwrap_err();
    assert!(matches!(error, AdminError::PathTooLong(_)));
    assert!(error.to_string().contains("data_dir"), "{error}");
}

//! A client's message as JSON: taken apart as a plain JSON reader would, and every error fit to be sent.

use serde_json::Value;
use tidegate::base::limits::{
    BATCH_COMMANDS_MAX, CORRELATION_ID_BYTES_MAX, MESSAGE_ID_BYTES_MAX, ROOM_NAME_BYTES_MAX,
};
use tidegate::handler::reply;
use tidegate::proto::envelope::json::{self, Unreadable};
use tidegate::proto::envelope::{Command, CommandError, Envelope, ErrorCode, Recipient, Since};

pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let value = serde_json::from_str::<Value>(text);
    match json::split(text) {
        Ok(commands) => {
            let mut count = 0;
            for command in commands {
                count += 1;
                read(command);
            }
            assert!(count <= BATCH_COMMANDS_MAX);
            if let Ok(Value::Array(items)) = &value {
                assert_eq!(items.len(), count);
            }
        }
        Err(error) => {
            check_error(None, &error);
            match value {
                Ok(Value::Object(_)) => panic!("{error} about an object"),
                Ok(Value::Array(items)) => assert!(items.len() > BATCH_COMMANDS_MAX, "{error}"),
                Ok(_) => assert_eq!(error.code, ErrorCode::InvalidMessage),
                Err(_) => {}
            }
        }
    }
    // Its own reader must not mind what the splitting does.
    read(text);
}

fn read(text: &str) {
    let value = serde_json::from_str::<Value>(text);
    match json::decode(text) {
        Ok(Envelope { id, command }) => {
            assert!(
                id.as_ref()
                    .is_none_or(|id| id.len() <= CORRELATION_ID_BYTES_MAX)
            );
            // Parts of it are never read, so they may be what `Value` takes for too large or too deep.
            if let Ok(value) = value {
                assert_eq!(value["id"].as_str(), id.as_deref());
                check_command(&value, &command);
            }
        }
        Err(Unreadable { id, error }) => {
            check_error(id.as_deref(), &error);
            if value.is_ok() {
                assert_ne!(error.code, ErrorCode::ParseError, "{error}");
            }
        }
    }
}

fn check_command(value: &Value, command: &Command<'_>) {
    let is_same = |raw: &str, field: &str| {
        let read = serde_json::from_str::<Value>(raw).ok();
        assert_eq!(read.as_ref(), value.get(field), "{field}");
    };
    let kind = match command {
        Command::Join {
            room,
            presence,
            state,
            since,
        } => {
            check_room(value, room);
            assert_eq!(value["presence"].as_bool().unwrap_or(false), *presence);
            match state {
                Some(state) => is_same(state, "state"),
                None => assert!(value["state"].is_null()),
            }
            match since {
                Some(Since::Position { epoch, seq }) => {
                    assert_eq!(value["since"]["epoch"].as_str(), Some(&**epoch));
                    assert_eq!(value["since"]["seq"].as_u64(), Some(*seq));
                }
                Some(Since::Time(ts)) => assert_eq!(value["since"]["ts"].as_u64(), Some(*ts)),
                None => assert!(value["since"].is_null()),
            }
            "join"
        }
        Command::Leave { room } => {
            check_room(value, room);
            "leave"
        }
        Command::Publish {
            room,
            data,
            mid,
            key,
            ephemeral,
            echo,
        } => {
            check_room(value, room);
            is_same(data, "data");
            check_mid(value, mid.as_deref());
            assert_eq!(value["key"].as_str(), key.as_deref());
            assert_eq!(value["ephemeral"].as_bool().unwrap_or(false), *ephemeral);
            assert_eq!(value["echo"].as_bool().unwrap_or(true), *echo);
            "publish"
        }
        Command::Send { to, data, mid } => {
            is_same(data, "data");
            check_mid(value, mid.as_deref());
            match to {
                Recipient::User(user) => assert_eq!(value["to"]["user"].as_str(), Some(&**user)),
                Recipient::Client(Some(client)) => {
                    let name = client.encode();
                    let name = std::str::from_utf8(&name).expect("ids are text");
                    assert_eq!(value["to"]["client"].as_str(), Some(name));
                }
                Recipient::Client(None) => assert!(value["to"]["client"].is_string()),
            }
            "send"
        }
        Command::Presence { room } => {
            check_room(value, room);
            "presence"
        }
        Command::RoomInfo { room } => {
            check_room(value, room);
            "room_info"
        }
        Command::Echo { data } => {
            is_same(data, "data");
            "echo"
        }
        Command::Ping => "ping",
        Command::Pong => "pong",
    };
    assert_eq!(value["type"].as_str(), Some(kind));
}

fn check_room(value: &Value, room: &str) {
    assert_eq!(value["room"].as_str(), Some(room));
    assert!((1..=ROOM_NAME_BYTES_MAX).contains(&room.len()));
    assert!(!room.chars().any(char::is_control));
}

fn check_mid(value: &Value, mid: Option<&str>) {
    assert_eq!(value["mid"].as_str(), mid);
    assert!(mid.is_none_or(|mid| mid.len() <= MESSAGE_ID_BYTES_MAX));
}

/// An error is written as JSON that says the same, and is no longer than it has reason to be.
fn check_error(id: Option<&str>, error: &CommandError) {
    let mut out = Vec::new();
    reply::error(&mut out, id, error);
    let value: Value = serde_json::from_slice(&out).expect("errors are JSON");
    assert_eq!(value["type"], "error");
    assert_eq!(value["id"].as_str(), id);
    assert_eq!(value["code"].as_str(), Some(error.code.as_str()));
    assert_eq!(value["message"].as_str(), Some(&*error.message));
    assert!(out.len() <= ERROR_BYTES_MAX, "{} bytes", out.len());
}

/// An id and a type of 64 bytes each, every one of them escaped.
const ERROR_BYTES_MAX: usize = 1500;

pub(super) const COMMANDS: &[&str] = &[
    r#"{"type":"join","room":"lobby","id":"1","presence":true,"state":{"status":"away"}}"#,
    r#"{"type":"join","room":"lobby","since":{"epoch":"38wd6se6","seq":1234}}"#,
    r#"{"type":"join","room":"caf\u00e9","since":{"ts":1790000000000},"token":"x"}"#,
    r#"{"type":"leave","room":"lobby","id":"2"}"#,
    r#"{"type":"publish","room":"lobby","data":{"text":"hello"},"id":"3"}"#,
    r#"{"type":"publish","room":"lobby","data":[1,2.5e3,null,"\ud83c\udf0a"],"mid":"018f","key":"price","id":"4"}"#,
    r#"{"type":"publish","room":"lobby","data":0,"ephemeral":true,"echo":false,"id":"5"}"#,
    r#"{"type":"publish","room":"@all","data":"to all","id":"6"}"#,
    r#"{"type":"send","to":{"user":"bob"},"data":"psst","id":"7"}"#,
    r#"{"type":"send","to":{"client":"000000000000abcd"},"data":"psst","mid":"m"}"#,
    r#"{"type":"presence","room":"lobby","id":"8"}"#,
    r#"{"type":"room_info","room":"lobby","id":"9"}"#,
    r#"{"type":"echo","data":{},"id":"10"}"#,
    r#"{"type":"ping","id":"11"}"#,
    r#"{"type":"pong"}"#,
];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let wrong = [
        r#"{"type":"subscribe","room":"lobby","id":"12"}"#,
        r#"{"type":"publish","room":"lobby","id":"13"}"#,
        r#"{"type":"join","room":"","id":"14"}"#,
        r#"{"type":"join","room":"a\u0000b"}"#,
        r#"{"type":"join","room":"a","room":"b"}"#,
        r#"{"type":"join","room":7,"id":8}"#,
        r#"{"type":"publish","room":"a","data":1e999}"#,
        r#"{"type":"publish","room":"a","data":"\ud800"}"#,
        r#"{"type":"send","to":"bob","data":1}"#,
        r#"{"type":"send","to":{"user":"a","client":"b"},"data":1}"#,
        r#"{"id":"15"}"#,
        r#"{"type":null}"#,
        " \t\r\n{\"type\":\"ping\"} ",
        "{\"type\":\"ping\"}x",
        "\u{feff}{}",
        "[]",
        "[1,{},[]]",
        "null",
        "\"text\"",
        "{",
        "",
    ];
    let deep = format!(
        r#"{{"type":"echo","data":{}{}}}"#,
        "[".repeat(300),
        "]".repeat(300)
    );
    let batch = format!("[{}]", COMMANDS.join(","));
    COMMANDS
        .iter()
        .chain(&wrong)
        .map(|text| text.as_bytes().to_vec())
        .chain([
            deep.into_bytes(),
            batch.into_bytes(),
            "[".repeat(2000).into_bytes(),
        ])
        .collect()
}

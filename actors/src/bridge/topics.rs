//! `topics`: every bound topic with its actor and its mailbox, a page at a time.
//! Arguments: `limit` (100 unless another is asked for, 1000 at most) and `after` (the `next` of the page before).

use serde::Deserialize;
use serde_json::Value;

use super::Arguments;
use crate::bound_topics::{DEFAULT_ROWS, ListTopics, MAX_ROWS};
use crate::hub::Hub;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default = "default_rows")]
    limit: usize,
    after: Option<String>,
}

fn default_rows() -> usize {
    DEFAULT_ROWS
}

pub(super) async fn answer(hub: Hub, arguments: Arguments) -> Result<Value, String> {
    let Asked { limit, after } =
        serde_json::from_value(Value::Object(arguments)).map_err(|e| e.to_string())?;
    if !(1..=MAX_ROWS).contains(&limit) {
        return Err(format!(
            "limit = {limit} is out of range; choose from 1 to {MAX_ROWS}"
        ));
    }
    let router = hub.switchboard().router().clone();
    let topics = router
        .send(ListTopics { limit, after })
        .await
        .map_err(|error| format!("the topic router does not answer: {error}"))?;
    serde_json::to_value(topics).map_err(|error| error.to_string())
}

//! What is said of an answer that is taken up: half a call, all of it, another model's words, and what no answer has.

use models::{
    AnswerOptions, Engine, Event, FinishReason, GenerateRequest, KvPrecision, Precision, RequestError,
    ResponseFormat, Sampling, Tokenizer, ToolChoice,
};

use crate::replay::{ID, answer, asking, engine, noisy, two};
use crate::structured::drawn;
use crate::support::{STORIES_GGUF, file, noisy_model};
use crate::tool_calls::{HERMES, with_tools};

/// A model that may call tools, and its tokenizer.
fn tool_model(precision: Precision) -> ([Engine; 2], Tokenizer) {
    let mut writer = noisy_model(3, true);
    writer.string("tokenizer.chat_template", HERMES);
    let (_directory, path) = file("tools.gguf", &writer.bytes());
    (two(&path, precision), Tokenizer::load(&path).unwrap())
}

#[test]
fn a_call_that_was_half_said_is_read_whole() {
    let ([mut engine, _], tokenizer) = tool_model(Precision::Int8);
    let call = "<tool_call>\n{\"name\": \"lamp\", \"arguments\": {\"on\": true}}\n</tool_call>";
    let tokens = tokenizer.encode(call).unwrap();
    // Where calls are forced, the form wants the rest of it.
    let mut request = asking("ab", 2000, drawn(1.0, 1), with_tools(ToolChoice::Required));
    let half = tokens.len() / 2;
    for cut in [1, half, half + 3] {
        request.said = tokens[..cut].to_vec();
        let rest = answer(&mut engine, &request);
        assert_eq!(
            (rest.text().as_str(), rest.end.reason),
            ("", FinishReason::ToolCalls)
        );
        let lamp = &rest.end.calls[0].function;
        if cut > half {
            assert_eq!(lamp.name, "lamp");
        }
        assert!(serde_json::from_str::<serde_json::Value>(&lamp.arguments).is_ok());
    }
    // Where they are free, one with text on both sides: the part before it was said, and so was the part behind.
    let around = tokenizer.encode(&format!("So:{call} ok")).unwrap();
    let mut request = asking(
        "ab",
        around.len() + 5,
        drawn(1.0, 1),
        with_tools(ToolChoice::Auto),
    );
    request.said = around;
    let rest = answer(&mut engine, &request);
    assert_eq!(rest.end.calls.len(), 1);
    assert_eq!(rest.end.calls[0].function.arguments, "{\"on\":true}");
    assert!(!rest.text().contains("lamp"), "{rest:?}");
}

#[test]
fn an_answer_that_was_all_said_only_ends() {
    let ([mut engine, _], tokenizer) = tool_model(Precision::Int4);
    let call = "<tool_call>{\"name\": \"ping\", \"arguments\": {}}</tool_call>";
    let end = (0..9).find(|token| tokenizer.is_end(*token)).unwrap();
    let mut tokens = tokenizer.encode(&format!("So:{call}")).unwrap();
    tokens.push(end);
    let mut request = asking("ab", 500, Sampling::greedy(), with_tools(ToolChoice::Auto));
    request.said = tokens.clone();
    engine.begin(ID, &request).unwrap();
    // Whether or not it may compute.
    assert!(engine.pause(ID, models::WhilePaused::Keep) && engine.has_work());
    let events = engine.step();
    let [
        Event::ToolCalls { calls, .. },
        Event::Done {
            finish_reason,
            completion_tokens,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((calls.len(), calls[0].function.name.as_str()), (1, "ping"));
    assert_eq!(
        (*finish_reason, *completion_tokens),
        (FinishReason::ToolCalls, tokens.len())
    );
    assert_eq!((engine.running(), engine.cache_bytes()), (0, 0));
    // Its end is the one that it had, also where it is cancelled now.
    engine.begin(ID, &request).unwrap();
    assert!(engine.cancel(ID));
    assert_eq!(engine.step(), events);
    // One that was allowed more elsewhere ends here, and says what was held back.
    let mut request = asking("ab", 3, Sampling::greedy(), AnswerOptions::default());
    request.said = tokenizer.encode("abcd").unwrap();
    request.stop = vec!["cde".into()];
    let rest = answer(&mut engine, &request);
    assert_eq!(
        (rest.text().as_str(), rest.end.reason),
        ("cd", FinishReason::Length)
    );
    assert_eq!(rest.end.completion_tokens, 4);
}

#[test]
fn what_another_model_has_said_is_taken_up_as_text() {
    let path = shared!(STORIES_GGUF);
    let prompt = "Once upon a time";
    for precision in [Precision::F32, Precision::Int8] {
        let mut engine = engine(&path, precision, KvPrecision::F16);
        let mut request = asking(prompt, 40, Sampling::greedy(), AnswerOptions::default());
        let whole = answer(&mut engine, &request).text();
        for cut in [1, 7, 20] {
            // Its own words lead it to its own words, though they may be cut into other tokens.
            request.said_text = format!("{}, and then", &whole[..cut]);
            let rest = answer(&mut engine, &request);
            let mut stopped = request.clone();
            // What the other one did not hold back is not said again where it is held back here, and stop texts that
            // begin in it are seen.
            stopped.stop = vec!["then~".into(), "d then".to_owned() + "!?"];
            assert_eq!(
                answer(&mut engine, &stopped).text(),
                rest.text(),
                "{precision} {cut}"
            );
            let begins: String = rest.text().chars().take(4).collect();
            stopped.stop = vec![format!("then{begins}")];
            let stopped = answer(&mut engine, &stopped);
            assert_eq!(
                (stopped.text().as_str(), stopped.end.reason),
                ("", FinishReason::Stop)
            );
        }
        // All that was allowed: what is held back here was told.
        request.said_text = "and then".into();
        request.stop = vec!["then~".into()];
        request.max_tokens = 1;
        let rest = answer(&mut engine, &request);
        assert_eq!(
            (rest.text().as_str(), rest.end.reason),
            ("", FinishReason::Length)
        );
        request.said = vec![5];
        assert_eq!(engine.begin(ID, &request).unwrap_err().code(), "invalid_said");
    }
    // A form goes on behind the text, whichever tokens it is made of.
    for byte_level in [true, false] {
        let [mut engine, _] = noisy(4, byte_level, Precision::Int8);
        let choice = AnswerOptions {
            response_format: ResponseFormat::Choice {
                choices: vec!["no, thanks".into(), "never".into()],
            },
            ..AnswerOptions::default()
        };
        let mut request = asking("ab", 40, drawn(1.0, 3), choice);
        request.said_text = "no".into();
        assert_eq!(answer(&mut engine, &request).text(), ", thanks");
        request.said_text = "no, thanks".into();
        assert_eq!(answer(&mut engine, &request).text(), "");
    }
}

#[test]
fn what_no_answer_has_is_refused_by_name() {
    let ([mut engine, _], tokenizer) = tool_model(Precision::F32);
    let end = (0..9).find(|token| tokenizer.is_end(*token)).unwrap();
    let free = asking("ab", 20, Sampling::greedy(), AnswerOptions::default());
    let choice = AnswerOptions {
        response_format: ResponseFormat::Choice {
            choices: vec!["yes".into(), "no".into()],
        },
        ..AnswerOptions::default()
    };
    let formed = asking("ab", 20, Sampling::greedy(), choice);
    let of = |request: &GenerateRequest, said: Vec<u32>| GenerateRequest {
        said,
        ..request.clone()
    };
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let mut stopped = of(&free, encode("abc"));
    stopped.stop = vec!["b".into()];
    for (request, code, says) in [
        (of(&free, vec![70_000]), "unknown_token", "70000"),
        (of(&formed, encode("yep")), "invalid_said", "does not allow"),
        (of(&formed, vec![end]), "invalid_said", "does not allow"),
        (of(&formed, encode("yes!")), "invalid_said", "ends after 3"),
        (of(&free, vec![end, 40]), "invalid_said", "ends after 1"),
        (stopped, "invalid_said", "ends after 2"),
    ] {
        let error = engine.begin(ID, &request).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(engine.running(), 0);
    }
    answer(&mut engine, &of(&formed, encode("n")));
}

#[test]
fn more_than_the_cache_may_take_is_refused_and_not_cut_short() {
    let (_directory, path) = file("noisy.gguf", &noisy_model(1, true).bytes());
    let mut engine = engine(&path, Precision::Int8, KvPrecision::F16);
    let mut request = asking("ab", 100, Sampling::greedy(), AnswerOptions::default());
    request.said = vec![40; 40];
    let page = engine.model().new_cache(16).bytes_for(16);
    engine.set_cache_budget(Some(2 * page));
    let error = engine.begin(ID, &request).unwrap_err();
    assert!(
        matches!(error, RequestError::CacheTooSmall { needed_bytes, .. } if needed_bytes == 3 * page),
        "{error}"
    );
    engine.set_cache_budget(Some(3 * page));
    let begun = engine.begin(ID, &request).unwrap();
    assert_eq!(begun.prompt_tokens + begun.max_tokens, 49);
}

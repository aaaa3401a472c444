use super::*;
use models::assistant::actions::SlotValue;
use models::assistant::intents::INTENTS;

fn parse(text: &str) -> Result<Patterns, PatternError> {
    Patterns::parse(&[("a.txt".to_owned(), text.to_owned())])
}

const SMALL: &str = "\
@area = kitchen | living room *2 | bedrom -> bedroom
@degrees_down = two degrees -> -2
<on> = turn on | (switch|put) on
HassTurnOn:
  <on> [all] [the] {area} lights ; domain=light *3
  <on> the {area} light and the {2.area} fan ; domain=light && HassTurnOn domain=fan
HassClimateSetTemperature:
  {temperature_step:degrees_down} cooler in the {area}
  set the {area} to {temperature:celsius} degrees ; temperature_unit=celsius
HassStartTimer:
  set a timer for {duration}
HassCancelTimer:
  cancel the {start_duration} timer
";

#[test]
fn a_sentence_means_what_its_pattern_and_its_captures_say() {
    let patterns = parse(SMALL).unwrap();
    let mut sampler = Sampler::new(&patterns, Language::English, 7);
    for _ in 0..200 {
        let example = sampler.plain("HassTurnOn").unwrap();
        let first = &example.actions[0];
        assert_eq!(first.slots.get("domain"), Some(&"light".into()), "{example:?}");
        let area = first.slots.get("area").unwrap().to_string();
        assert!(
            ["kitchen", "living room", "bedroom"].contains(&area.as_str()),
            "{example:?}"
        );
        assert!(
            example.text.contains(&area) || example.text.contains("bedrom"),
            "{example:?}"
        );
        assert_eq!(
            example.actions.len(),
            if example.text.contains("fan") { 2 } else { 1 }
        );
    }
    for _ in 0..50 {
        let example = sampler.plain("HassClimateSetTemperature").unwrap();
        if example.text.contains("cooler") {
            assert_eq!(
                example.actions[0].slots.get("temperature_step"),
                Some(&SlotValue::from(-2))
            );
        }
        let timer = sampler.plain("HassStartTimer").unwrap();
        assert!(
            timer.actions[0]
                .slots
                .iter()
                .all(|(slot, _)| ["hours", "minutes", "seconds"].contains(&slot))
        );
        let cancel = sampler.plain("HassCancelTimer").unwrap();
        assert!(
            cancel.actions[0]
                .slots
                .iter()
                .all(|(slot, _)| slot.starts_with("start_")),
            "{cancel:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_sentences_and_another_one_others() {
    let patterns = parse(SMALL).unwrap();
    let drawn = |seed| {
        let mut sampler = Sampler::new(&patterns, Language::English, seed);
        (0..50).filter_map(|_| sampler.next_example()).collect::<Vec<_>>()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn a_line_that_is_not_understood_is_named_with_the_reason() {
    for (line, reason) in [
        ("HassTurnOn:\n  turn on {room}", "no list"),
        ("HassTurnOn:\n  turn on <it>", "no rule"),
        ("HassTurnOn:\n  turn on ; colour=red", "no slot"),
        ("HassTurnOn:\n  (turn on", "not closed"),
        ("HassTurnOn:\n  turn on)", "closes nothing"),
        ("Dance:", "no intent"),
        ("  turn on", "before the first intent"),
        ("@area = kitchen | ", "empty"),
        ("<a> = <b>\n<b> = <a>", "contains itself"),
        ("HassTurnOn:\n  turn on {2.area}\n@area = kitchen", "no action 2"),
        ("what is this", "neither"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(reason), "{line:?}: {error}");
    }
}

/// What is trained on is right, whatever else it is.
#[test]
fn every_sentence_of_the_shipped_patterns_has_actions_that_may_be() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../embedded/patterns");
    for language in Language::ALL {
        let patterns = Patterns::read(&directory.join(language.code())).unwrap();
        let mut sampler = Sampler::new(&patterns, language, 11);
        for intent in INTENTS {
            for _ in 0..100 {
                let example = sampler
                    .plain(intent.name)
                    .unwrap_or_else(|| panic!("no pattern of {}", intent.name));
                let problem = example.actions.iter().find_map(|action| action.problem());
                assert_eq!(problem, None, "{example:?}");
                assert!(!example.text.is_empty() && !example.say.is_empty(), "{example:?}");
                assert!(!example.say.contains(['{', '}']), "{example:?}");
            }
        }
        for _ in 0..2000 {
            let example = sampler.next_example().unwrap();
            assert!(
                !example.actions.is_empty() && !example.text.contains("  "),
                "{example:?}"
            );
        }
    }
}

#[test]
fn a_reason_changes_nothing_a_condition_puts_out_of_reach_and_open_vocabulary_is_meant_as_it_is_said() {
    // Signs, which no slip changes.
    let text = format!(
        "{SMALL}unsupported:\n  ~song~\n@lead = ~lead~\n@trail = ~trail~\n@condition_before = ~before~\n\
         @condition_after = ~after~\n@more_room = igloo | boathouse\n"
    )
    .replace("~song~", "§")
    .replace("~lead~", "¤")
    .replace("~trail~", "¶")
    .replace("~before~", "†")
    .replace("~after~", "‡");
    let patterns = parse(&text).unwrap();
    let mut sampler = Sampler::new(&patterns, Language::English, 3);
    let (mut reasons, mut conditions, mut rooms) = (0, 0, 0);
    for _ in 0..3000 {
        let example = sampler.next_example().unwrap();
        let said = example.text.to_lowercase();
        let is_out = example.actions == vec![Action::unsupported()];
        conditions += usize::from(said.contains(['†', '‡']));
        reasons += usize::from(said.contains(['¤', '¶']));
        assert_eq!(is_out, said.contains(['§', '†', '‡']), "{example:?}");
        for action in &example.actions {
            if let Some(SlotValue::Text(area)) = action.slots.get("area")
                && ["igloo", "boathouse"].contains(&area.as_str())
            {
                rooms += 1;
                assert!(said.contains(area.as_str()), "{example:?}");
            }
        }
    }
    assert!(
        reasons > 100 && conditions > 50 && rooms > 50,
        "{reasons} {conditions} {rooms}"
    );
}

#[test]
fn made_up_names_are_words_of_one_piece_and_halves_of_two_keep_their_ends() {
    let mut chance = Chance::new(5);
    for _ in 0..200 {
        let word = open::made_up(&mut chance);
        assert!(
            word.len() >= 2 && word.bytes().all(|byte| byte.is_ascii_lowercase()),
            "{word}"
        );
    }
    assert_eq!(
        open::crossed("reading lamp", "kitchen night light", Language::English),
        "reading night light"
    );
    assert_eq!(open::crossed("扫地机", "空调", Language::Chinese), "扫地调");
    assert_eq!(open::crossed("tv", "空调", Language::Chinese), "tv");
}

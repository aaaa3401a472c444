//! Which model.

use std::path::Path;

use super::{assert_says, setup};
use crate::library::{EMBEDDED, Library, Manifest};

#[test]
fn a_model_is_named_by_its_path_or_by_its_name_in_the_models_folder() {
    let setup = setup();
    let library = Library::of(&setup.temp.path().join("data"));
    let put = |name: &str| {
        let staging = library.stage(&name.parse().unwrap()).unwrap();
        let manifest = Manifest {
            name: name.to_owned(),
            model: "model.gguf".to_owned(),
            source: None,
            files: Vec::new(),
        };
        staging.finish(&manifest).unwrap().model
    };
    let model = put("someone/model:Q4_0");
    let setup = setup.flag("--model", "model.path", "someone/model");
    assert_eq!(setup.settings().model.path, Some(model));
    put("someone/model:Q8_0");
    let message = setup.message();
    for said in ["--model", "someone/model:Q4_0, someone/model:Q8_0"] {
        assert!(message.contains(said), "{message}");
    }
    let setup = setup.flag("--model", "model.path", "someone/other");
    assert_eq!(setup.settings().model.path, Some("someone/other".into()));
}

#[test]
fn the_assistant_that_comes_with_the_program_is_named_by_a_word_and_takes_up_no_others_answer() {
    let setup = setup().flag("--model", "model.path", EMBEDDED);
    let embedded = Library::of(&setup.temp.path().join("data")).embedded();
    assert_eq!(setup.settings().model.path.as_deref(), Some(Path::new(&embedded)));
    let setup = setup.flag("--set", "model.fallback", EMBEDDED);
    assert_says(
        &setup.message(),
        &["model.fallback", EMBEDDED, "go on with another model's answer"],
    );
}

#[test]
fn the_assistant_is_given_no_more_keys_and_values_than_are_of_use_and_other_models_what_is_set() {
    let settings = setup().settings();
    let library = Library::of(&settings.data_dir);
    library.unpack(&library.embedded()).unwrap();
    let mut summary = models::inspect(&library.embedded()).unwrap();
    let mut given = settings.model.clone();
    given.suit(&summary);
    assert_eq!(given.cache_bytes, Some(models::assistant::CACHE_BYTES));
    given.cache_bytes = Some(1 << 20);
    given.suit(&summary);
    assert_eq!(given.cache_bytes, Some(1 << 20));
    summary.assistant = false;
    let mut given = settings.model.clone();
    given.suit(&summary);
    assert_eq!(given.cache_bytes, settings.model.cache_bytes);
}

#[test]
fn an_empty_name_is_no_model() {
    assert_eq!(
        setup().flag("--model", "model.path", "").settings().model.path,
        None
    );
}

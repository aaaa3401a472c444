use super::*;

fn put(library: &Library, name: &str) -> Entry {
    let name: ModelName = name.parse().unwrap();
    let staging = library.stage(&name).unwrap();
    fs::write(staging.path().join("model.gguf"), b"weights").unwrap();
    staging.finish(&manifest(&name.to_string())).unwrap()
}

fn manifest(name: &str) -> Manifest {
    Manifest {
        name: name.to_owned(),
        model: "model.gguf".to_owned(),
        source: None,
        files: vec![KeptFile {
            name: "model.gguf".to_owned(),
            bytes: 7,
            checksum: None,
        }],
    }
}

fn names(library: &Library) -> Vec<String> {
    let entries = library.entries().unwrap();
    entries.iter().map(|entry| entry.name.to_string()).collect()
}

#[test]
fn models_are_found_by_name_and_by_repository_where_that_is_clear() {
    let home = tempfile::tempdir().unwrap();
    let library = Library::of(home.path());
    assert_eq!(names(&library), [""; 0]);
    let small = put(&library, "a/b:Q4_0");
    assert_eq!(library.find("a/b:q4_0").unwrap().model, small.model);
    assert_eq!(library.find("A/B").unwrap().model, small.model);
    assert_eq!(library.resolve("a/b").unwrap(), small.model);
    put(&library, "a/b:Q8_0");
    put(&library, "stories");
    assert_eq!(names(&library), ["stories", "a/b:Q4_0", "a/b:Q8_0"]);
    let unclear = library.find("a/b").unwrap_err().to_string();
    assert!(unclear.contains("a/b:Q4_0, a/b:Q8_0"), "{unclear}");
    let missing = library.find("../b").unwrap_err().to_string();
    assert!(
        missing.contains("model list") && missing.contains("model pull"),
        "{missing}"
    );
    library.remove(&small).unwrap();
    assert_eq!(names(&library), ["stories", "a/b:Q8_0"]);
    assert!(!small.model.exists());
}

#[test]
fn paths_come_before_names_and_what_is_neither_stays_a_path() {
    let home = tempfile::tempdir().unwrap();
    let library = Library::of(home.path());
    let own = home.path().join("own.gguf");
    fs::write(&own, b"x").unwrap();
    assert_eq!(library.resolve(own.to_str().unwrap()).unwrap(), own);
    for neither in ["/nowhere/model.gguf", "x/y:z", "../../etc/passwd", ""] {
        assert_eq!(library.resolve(neither).unwrap(), PathBuf::from(neither));
    }
}

#[test]
fn a_model_is_there_as_a_whole_or_not_at_all_and_one_at_a_time_is_made() {
    let home = tempfile::tempdir().unwrap();
    let library = Library::of(home.path());
    let name: ModelName = "a/b".parse().unwrap();
    let staging = library.stage(&name).unwrap();
    fs::write(staging.path().join("model.gguf"), b"half").unwrap();
    assert!(matches!(library.stage(&name), Err(LibraryError::Busy { .. })));
    assert_eq!(names(&library), [""; 0]);
    drop(staging);
    assert_eq!(library.unfinished(), [(name.clone(), 4)]);
    // The next attempt finds what the first has left.
    let staging = library.stage(&name).unwrap();
    assert_eq!(fs::read(staging.path().join("model.gguf")).unwrap(), b"half");
    staging.finish(&manifest("a/b")).unwrap();
    assert_eq!(names(&library), ["a/b"]);
    let staging = library.stage(&name).unwrap();
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
    fs::write(staging.path().join("model.gguf"), b"other").unwrap();
    let entry = staging.finish(&manifest("a/b")).unwrap();
    assert_eq!(fs::read(entry.model).unwrap(), b"other");
    library.stage(&name).unwrap().abandon().unwrap();
    let left: Vec<_> = fs::read_dir(library.directory().join(PART)).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn manifests_that_lead_elsewhere_or_were_moved_are_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let library = Library::of(home.path());
    let entry = put(&library, "a/b");
    let path = entry.model.with_file_name(MANIFEST);
    for model in ["../../other.gguf", "/etc/passwd", "", ".."] {
        let mut spoilt = manifest("a/b");
        spoilt.model = model.to_owned();
        spoilt.write(&path).unwrap();
        assert_eq!(names(&library), [""; 0], "{model}");
    }
    manifest("c/d").write(&path).unwrap();
    assert_eq!(names(&library), [""; 0]);
    fs::write(&path, "{").unwrap();
    assert_eq!(names(&library), [""; 0]);
}

use super::super::secret::DeviceSecret;
use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn phone() -> DeviceId {
    "phone".parse().unwrap()
}

fn token(issued_s: u64) -> Proof {
    Proof::Token {
        issued_at: Some(at(issued_s)),
    }
}

fn verifier() -> Verifier {
    Verifier::of(&phone(), &DeviceSecret::random().unwrap()).unwrap()
}

fn with_paired(now_s: u64) -> Register {
    let mut register = Register::new([], 10);
    let record = register.paired(&phone(), verifier(), at(now_s)).unwrap();
    register.put(phone(), record);
    register
}

#[test]
fn a_first_pairing_leaves_the_owner_s_own_tokens_alone() {
    let register = with_paired(100);
    assert_eq!(register.get(&phone()).unwrap().state(), State::Paired);
    for proof in [
        token(50),
        token(200),
        Proof::Secret { generation: 1 },
        Proof::Certificate,
    ] {
        assert!(register.stands(&phone(), proof), "{proof:?}");
    }
}

#[test]
fn a_revoked_device_has_nothing_left_but_what_is_signed_later() {
    let mut register = with_paired(100);
    register.put(phone(), register.revoked(&phone(), at(200)));
    assert_eq!(register.get(&phone()).unwrap().state(), State::Revoked);
    for (proof, stands) in [
        (token(199), false),
        (token(200), false),
        (token(201), true),
        (Proof::Token { issued_at: None }, false),
        (Proof::Secret { generation: 1 }, false),
        (Proof::Certificate, false),
    ] {
        assert_eq!(register.stands(&phone(), proof), stands, "{proof:?}");
    }
    assert_eq!(register.sign_at(&phone(), at(200)), at(201));
    assert_eq!(register.sign_at(&phone(), at(300)), at(300));
}

#[test]
fn any_name_can_be_revoked_paired_or_not() {
    let mut register = Register::new([], 10);
    assert!(register.stands(&phone(), token(1)));
    assert!(register.stands(&phone(), Proof::Token { issued_at: None }));
    assert!(
        !register.stands(&phone(), Proof::Secret { generation: 1 }),
        "it never had one"
    );
    register.put(phone(), register.revoked(&phone(), at(200)));
    assert!(!register.stands(&phone(), token(200)));
    assert!(register.stands(&phone(), token(201)));
}

#[test]
fn pairing_again_voids_what_was_before_and_makes_a_revoked_device_good() {
    let mut register = with_paired(100);
    assert_eq!(
        register.may_pair(&phone(), false),
        Err(RegisterError::Paired(phone()))
    );
    register.may_pair(&phone(), true).unwrap();
    register.put(phone(), register.paired(&phone(), verifier(), at(200)).unwrap());
    assert!(!register.stands(&phone(), token(200)));
    assert!(register.stands(&phone(), token(201)));
    assert!(!register.stands(&phone(), Proof::Secret { generation: 1 }));
    assert!(register.stands(&phone(), Proof::Secret { generation: 2 }));

    register.put(phone(), register.revoked(&phone(), at(300)));
    register.may_pair(&phone(), false).unwrap();
    register.put(phone(), register.paired(&phone(), verifier(), at(400)).unwrap());
    assert!(register.stands(&phone(), Proof::Certificate));
    assert!(!register.stands(&phone(), token(350)));
    assert_eq!(register.get(&phone()).unwrap().created_s, 100);
}

#[test]
fn every_token_can_be_voided_at_once_and_secrets_stay() {
    let mut register = with_paired(100);
    register.void_tokens(at(200));
    let guest: DeviceId = "guest".parse().unwrap();
    assert!(!register.stands(&guest, token(199)) && !register.stands(&phone(), token(199)));
    // Of the second in which it was done, too: what the old key signed in it the new one does not believe.
    assert!(register.stands(&guest, token(200)));
    assert!(register.stands(&phone(), Proof::Secret { generation: 1 }));
}

#[test]
fn a_clock_that_goes_back_makes_no_void_token_good() {
    let mut register = with_paired(100);
    register.put(phone(), register.revoked(&phone(), at(500)));
    register.put(phone(), register.revoked(&phone(), at(200)));
    assert!(!register.stands(&phone(), token(400)));
}

#[test]
fn a_new_display_name_changes_nothing_else() {
    let mut register = with_paired(100);
    let tablet: DeviceId = "tablet".parse().unwrap();
    assert_eq!(
        register.renamed(&tablet, "x").err(),
        Some(RegisterError::Unknown(tablet))
    );
    for bad in ["", "  ", "a\nb", &"x".repeat(65)] {
        assert_eq!(
            register.renamed(&phone(), bad).err(),
            Some(RegisterError::Label),
            "{bad:?}"
        );
    }
    register.put(phone(), register.renamed(&phone(), " Anna's phone ").unwrap());
    let device = register.get(&phone()).unwrap();
    assert_eq!(device.label.as_deref(), Some("Anna's phone"));
    assert!(register.stands(&phone(), Proof::Secret { generation: 1 }));
}

#[test]
fn a_device_that_comes_often_is_kept_once_an_hour() {
    let mut register = with_paired(0);
    assert!(register.seen(&phone(), at(10)).is_some());
    assert!(register.seen(&phone(), at(3599)).is_none());
    assert_eq!(register.seen(&phone(), at(3600)).unwrap().seen_s, Some(3600));
    assert!(register.seen(&"tablet".parse().unwrap(), at(0)).is_none());
}

#[test]
fn the_register_has_a_bound_and_the_user_name_for_pairing_is_no_device() {
    let mut register = Register::new([], 1);
    register.may_pair(&phone(), false).unwrap();
    register.put(phone(), register.revoked(&phone(), at(1)));
    let tablet: DeviceId = "tablet".parse().unwrap();
    assert_eq!(register.may_pair(&tablet, false), Err(RegisterError::Full(1)));
    register.put(tablet.clone(), register.revoked(&tablet, at(1)));
    assert!(
        !register.stands(&tablet, token(1)),
        "whoever is to be kept out is"
    );
    register.may_pair(&phone(), false).unwrap();
    assert_eq!(
        register.may_pair(&PAIRING.parse().unwrap(), false),
        Err(RegisterError::Reserved)
    );
}

#[test]
fn a_record_is_read_as_it_was_kept() {
    let register = with_paired(100);
    let device = register.renamed(&phone(), "x").unwrap();
    let bytes = device.to_bytes().unwrap();
    let read = Device::from_bytes(&bytes).unwrap();
    assert!(read.verifier == device.verifier);
    assert_eq!(read.to_bytes().unwrap(), bytes);
    for bad in [
        &b""[..],
        b"{}",
        br#"{"verifier":"x","valid_from_s":0,"created_s":0}"#,
    ] {
        assert!(Device::from_bytes(bad).is_err());
    }
}

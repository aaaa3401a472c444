//! The section `[store]`: where what outlives the daemon is kept, what opens it, and how it is looked after.

use platform::keychain;

use super::check::{Checker, DAY_S};
use super::raw::{Given, RawStore};
use super::{MasterKeySource, PostgresServer, Store, StoreMode};

/// Thirty days, the longest between two looks at what is kept.
const MONTH_S: u64 = 30 * DAY_S;

impl Checker<'_> {
    pub(super) fn store(&mut self, raw: RawStore) -> Store {
        let mode = self.choice(
            "store.mode",
            raw.mode,
            &[
                ("embedded", StoreMode::Embedded),
                ("postgres", StoreMode::Postgres),
                ("none", StoreMode::None),
            ],
            StoreMode::Embedded,
        );
        let server = PostgresServer {
            url: self
                .text("store.postgres_url", raw.postgres_url)
                .trim()
                .to_owned(),
            password: self.password(
                ["store.postgres_password_file", "store.postgres_password_variable"],
                raw.postgres_password_file,
                raw.postgres_password_variable,
            ),
            ca_certificate: self.optional_path("store.postgres_ca_certificate", raw.postgres_ca_certificate),
        };
        Store {
            mode,
            master_key: self.master_key(
                raw.master_key_file,
                raw.master_key_variable,
                raw.master_key_keychain,
            ),
            check_interval: self.seconds("store.check_interval_s", raw.check_interval_s, 0..=MONTH_S),
            check_bytes_per_s: self.number::<u64>("store.check_mib_per_s", raw.check_mib_per_s, 1..=1024)
                << 20,
            postgres: (mode == StoreMode::Postgres).then(|| self.postgres(server)),
        }
    }

    fn postgres(&mut self, server: PostgresServer) -> PostgresServer {
        #[cfg(feature = "postgres")]
        if let Err(fault) = crate::store::postgres_config(&server) {
            // What is written there may hold a password, which no message shows.
            self.refuse("store.postgres_url", "(what is there)", &fault);
        }
        #[cfg(not(feature = "postgres"))]
        self.refuse(
            "store.mode",
            "\"postgres\"",
            "this program was built without PostgreSQL; build it with `cargo build --release --features postgres`, \
             or write \"embedded\"",
        );
        server
    }

    fn master_key(
        &mut self,
        file: Given<String>,
        variable: Given<String>,
        keychain: Given<String>,
    ) -> Option<MasterKeySource> {
        let file = self
            .optional_path("store.master_key_file", file)
            .map(MasterKeySource::File);
        let variable = self.optional("store.master_key_variable", variable);
        let keychain = self.optional("store.master_key_keychain", keychain);
        if let Some(service) = &keychain
            && !keychain::IS_THERE
        {
            let reason =
                "only macOS has a System keychain; use store.master_key_file or store.master_key_variable";
            self.refuse("store.master_key_keychain", format!("{service:?}"), reason);
        }
        let mut found: Option<(&str, MasterKeySource)> = None;
        let sources = [
            ("store.master_key_file", file),
            (
                "store.master_key_variable",
                variable.map(MasterKeySource::Variable),
            ),
            (
                "store.master_key_keychain",
                keychain.map(MasterKeySource::Keychain),
            ),
        ];
        for (key, source) in sources {
            match (&found, source) {
                (_, None) => {}
                (None, Some(source)) => found = Some((key, source)),
                (Some((other, _)), Some(_)) => {
                    let reason = format!("there is {other} too; a key has one source, so empty one of them");
                    self.refuse(key, "(what is there)", &reason);
                }
            }
        }
        found.map(|(_, source)| source)
    }
}

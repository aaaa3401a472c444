//! How fast redb takes what the store gives it. Run by `engines.sh`, beside SQLite in turn.
//!
//! Arguments: a folder, values put in each commit, commits. Each commit also takes away the values of the one before,
//! as messages are that their receivers acknowledged. Prints values per second and the bytes of the file.

use std::error::Error;
use std::time::Instant;

use redb::TableDefinition;

const VALUES: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("deliveries");
const VALUE_BYTES: usize = 300;
/// As the store has it.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let [folder, batch, commits] = &arguments[..] else {
        // As `cargo bench` calls it for all of them.
        println!("run benches/engines.sh");
        return Ok(());
    };
    let (batch, commits): (u128, u128) = (batch.parse()?, commits.parse()?);
    let path = std::path::Path::new(folder).join("engine.redb");
    let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path)?;
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    let mut value = vec![0; VALUE_BYTES];
    let started = Instant::now();
    for commit in 0..commits {
        let transaction = database.begin_write()?;
        {
            let mut values = transaction.open_table(VALUES)?;
            for number in commit * batch..(commit + 1) * batch {
                for byte in &mut value {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    *byte = noise as u8;
                }
                values.insert(&number.to_be_bytes(), &*value)?;
                if let Some(before) = number.checked_sub(batch) {
                    values.remove(&before.to_be_bytes())?;
                }
            }
        }
        transaction.commit()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&path)?.len();
    println!(
        "values_per_s={:.0} bytes={bytes}",
        (batch * commits) as f64 / seconds
    );
    Ok(())
}

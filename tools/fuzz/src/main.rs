//! Writes the seeds that are made from valid encodings into the corpus.

#![allow(clippy::disallowed_methods, reason = "a tool that writes files")]

use std::path::Path;
use std::{fs, io};

use dkc_fuzz::{Target, seeds};

fn main() -> io::Result<()> {
    for target in Target::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, seed) in seeds::of(target.name) {
            fs::write(folder.join(format!("seed-{name}")), seed)?;
        }
        println!("{}", folder.display());
    }
    Ok(())
}

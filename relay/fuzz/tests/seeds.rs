//! Every input in `seeds`, those that once found something among them, through its target.

use std::{fs, path::Path};

use relay_fuzz::TARGETS;

#[test]
fn what_must_hold_holds_for_every_seed() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, check) in TARGETS {
        let mut count = 0;
        for file in fs::read_dir(seeds.join(name)).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            check(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has a seed");
    }
}

# shellcheck shell=bash
# The mutants that cargo-mutants makes, as patches like those of ci/defects. Sourced by ci/mutants, not run.

MUTANTS_VERSION=27.1.0
TOOLS=$ROOT/target/tools

# need_cargo_mutants: the version of which the names of mutants are known.
need_cargo_mutants() {
    install_programs jq=jq || die "$WHY"
    export PATH="$TOOLS/bin:$PATH"
    [ "$(cargo mutants --version 2>/dev/null)" = "cargo-mutants $MUTANTS_VERSION" ] && return
    say "setup: cargo install cargo-mutants $MUTANTS_VERSION, into target/tools"
    cargo install cargo-mutants --version $MUTANTS_VERSION --locked --quiet --root "$TOOLS"
}

# generate DIRECTORY: writes a patch for each mutant of what .cargo/mutants.toml names. Its name is where it is,
# `datapath-rate:101:37`, and which of those there, if several are. In the lines before the patch proper, `At:` is the first
# line that it changes, by which a reason in ci/survivors finds it when line numbers have moved.
generate() {
    rm -rf "$1"
    mkdir -p "$1"
    cargo mutants --list --json --diff >"$WORK/mutants" || return
    # shellcheck disable=SC2016
    jq --raw-output --from-file /dev/stdin "$WORK/mutants" <<'JQ' |
def place: (.file | ltrimstr("relay/src/") | rtrimstr(".rs") | gsub("/"; "-"))
    + ":\(.span.start.line):\(.span.start.column)";
def suites:
    if .file | test("^relay/src/(datapath|wire)/") then
        "suites/ping",
        "suites/load suites/mtu/bulk.toml",
        "suites/ttl suites/icmp suites/security suites/checksum suites/ecn suites/mtu"
    else
        "suites/registry suites/churn",
        "suites/etcd suites/faults"
    end;
def numbered: to_entries | map(.value + {id: ((.value | place) + if .key > 0 then ".\(.key + 1)" else "" end)});
group_by(place) | map(numbered) | flatten | .[] | (.diff | split("\n")) as $lines
| "\u001e\(.id)",
    "\(.file): \(.name | sub("^[^ ]* "; ""))",
    (suites | "Suites: " + .),
    "At: \($lines[3:] | map(select(startswith("-")))[0][1:] | sub("^ +"; ""))",
    "",
    "diff --git a/\(.file) b/\(.file)", "--- a/\(.file)", "+++ b/\(.file)",
    ($lines[2:] | join("\n") | rtrimstr("\n"))
JQ
        awk -v directory="$1" '/^\036/ {close(file); file = directory "/" substr($0, 2) ".patch"; next} {print > file}'
}

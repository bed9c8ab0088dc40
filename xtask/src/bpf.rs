//! `cargo xtask bpf`: builds `ebpf/steer.bpf.o`, the XDP object that is checked in.
//!
//! Theory. The kernel side needs a compiler with unstable flags, the sources of `core`, and a
//! linker of its own; none of this may be a condition for `cargo build`. So the built object is
//! part of the repository, and beside it lies `steer.bpf.digest`, which ties it to its sources:
//!
//! ```text
//! sluice-bpf-digest 1
//! sources sha256:HEX     over the recipe's version and every source file, see `sources_digest`
//! object sha256:HEX      over the object as it is checked in
//! toolchain TEXT         what built it
//! ```
//!
//! Anyone can check both digests with nothing installed. Who has the same toolchain can build again
//! and must get the same bytes: paths are remapped, one codegen unit, locked dependencies, DWARF
//! stripped (BTF stays; the kernel wants it). Another toolchain gives other bytes, and then only
//! the digests are compared, and that is said.
//!
//! Toolchain: compiler and sources of `core` must be one version. Debian's `rustc-web`,
//! `rust-web-src` and `cargo-web` are; `RUSTC_BOOTSTRAP=1` opens `-Z build-std`. Where they are not
//! to be had, rustup's nightly with `rust-src` does. bpf-linker is built against Debian's LLVM 22.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

/// Goes up when the way of building changes the object.
const RECIPE: &str = "recipe 1: opt-level 3, debug 2, btf, build-std=core, llvm-strip -g";
const BPF_LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_PACKAGES: [&str; 6] =
    ["rustc-web", "rust-web-src", "cargo-web", "llvm-22-dev", "llvm-22", "libzstd-dev"];
const OBJECT: &str = "ebpf/steer.bpf.o";
const DIGEST: &str = "ebpf/steer.bpf.digest";

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing: compare the digests, and the bytes when the same toolchain is there
    #[arg(long)]
    check: bool,
    /// Build with a log line per packet, into target/bpf/steer-log.bpf.o
    #[arg(long, conflicts_with = "check")]
    log: bool,
}

/// What `bpf --check` does, with a toolchain installed for it where we may: the tests want to see
/// the bytes built anew, not only their digest.
pub fn rebuild_and_compare() -> Result<(), String> {
    let root = root();
    if Toolchain::find(&root).is_err()
        && let Err(why) = install(&root)
    {
        println!("skipped: rebuilding {OBJECT} needs a toolchain: {why}");
    }
    check(&root)
}

pub fn run(args: &Args) -> Result<(), String> {
    let root = root();
    if args.check {
        return check(&root);
    }
    let toolchain = match Toolchain::find(&root) {
        Ok(found) => found,
        Err(missing) => {
            println!("bpf: {missing}; installing");
            install(&root)?;
            Toolchain::find(&root)?
        }
    };
    let object = toolchain.build(&root, args.log)?;
    if args.log {
        let path = root.join("target/bpf/steer-log.bpf.o");
        write(&path, &object)?;
        println!("bpf: {} ({} bytes)", path.display(), object.len());
        return Ok(());
    }
    let digest = Recorded {
        sources: sources_digest(&root)?,
        object: hex(&object),
        toolchain: toolchain.describe()?,
    };
    write(&root.join(OBJECT), &object)?;
    write(&root.join(DIGEST), digest.print().as_bytes())?;
    println!("bpf: {OBJECT} ({} bytes), built by {}", object.len(), digest.toolchain);
    Ok(())
}

fn check(root: &Path) -> Result<(), String> {
    let recorded = check_digests(root)?;
    println!("bpf: {OBJECT} fits its sources and its digest");
    let toolchain = match Toolchain::find(root) {
        Ok(found) => found,
        Err(missing) => {
            println!("bpf: not rebuilt: {missing}");
            return Ok(());
        }
    };
    let here = toolchain.describe()?;
    if here != recorded.toolchain {
        println!("bpf: not rebuilt: it was built by {}, here is {here}", recorded.toolchain);
        return Ok(());
    }
    if hex(&toolchain.build(root, false)?) != recorded.object {
        return Err(format!("the same toolchain ({here}) builds other bytes than {OBJECT} has"));
    }
    println!("bpf: rebuilt, the same bytes");
    Ok(())
}

/// What can be checked with nothing installed.
fn check_digests(root: &Path) -> Result<Recorded, String> {
    let recorded = Recorded::parse(&read_text(&root.join(DIGEST))?)?;
    if sources_digest(root)? != recorded.sources {
        return Err(format!(
            "the sources under ebpf/ have changed since {OBJECT} was built; run `cargo xtask bpf`"
        ));
    }
    let object = read(&root.join(OBJECT))?;
    if hex(&object) != recorded.object {
        return Err(format!(
            "{OBJECT} is not the object that {DIGEST} names; run `cargo xtask bpf`"
        ));
    }
    no_path_inside(root, &object)?;
    Ok(recorded)
}

/// The three lines of the digest file.
#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    sources: String,
    object: String,
    toolchain: String,
}

impl Recorded {
    fn print(&self) -> String {
        let Self { sources, object, toolchain } = self;
        format!(
            "sluice-bpf-digest 1\nsources sha256:{sources}\nobject sha256:{object}\n\
             toolchain {toolchain}\n"
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some("sluice-bpf-digest 1") {
            return Err(format!("{DIGEST}: line 1 must be \"sluice-bpf-digest 1\""));
        }
        let mut field = |number: u32, start: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(start));
            line.map(str::to_owned)
                .ok_or_else(|| format!("{DIGEST}: line {number} must start with \"{start}\""))
        };
        Ok(Self {
            sources: field(2, "sources sha256:")?,
            object: field(3, "object sha256:")?,
            toolchain: field(4, "toolchain ")?,
        })
    }
}

/// SHA-256 over the recipe, the linker's version and, for each file that goes into the object in
/// order of name: its name, its length in bytes (as text), its bytes; a zero byte ends each part.
fn sources_digest(root: &Path) -> Result<String, String> {
    let mut names = vec!["ebpf/Cargo.toml".to_owned(), "ebpf/Cargo.lock".to_owned()];
    names.push("ebpf/common/Cargo.toml".to_owned());
    for folder in ["ebpf/src", "ebpf/common/src"] {
        let entries = fs::read_dir(root.join(folder)).map_err(|err| format!("{folder}: {err}"))?;
        for entry in entries {
            let entry = entry.map_err(|err| format!("{folder}: {err}"))?;
            names.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    names.sort();
    let mut sum = Sha256::new();
    let mut part = |bytes: &[u8]| {
        sum.update(bytes);
        sum.update([0]);
    };
    part(RECIPE.as_bytes());
    part(BPF_LINKER_VERSION.as_bytes());
    for name in names {
        let bytes = read(&root.join(&name))?;
        part(name.as_bytes());
        part(bytes.len().to_string().as_bytes());
        part(&bytes);
    }
    Ok(to_hex(&sum.finalize()))
}

/// Compiler and sources of `core` of one version, and the linker.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    bpf_linker: PathBuf,
}

impl Toolchain {
    /// `Err` says what is missing.
    fn find(root: &Path) -> Result<Self, String> {
        let debian = (PathBuf::from("/usr/share/cargo/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
        let (cargo, rustc) = [Some(debian), nightly()]
            .into_iter()
            .flatten()
            .find(|(cargo, rustc)| cargo.exists() && has_core_sources(rustc))
            .ok_or(
                "no compiler with the sources of `core` (Debian: rustc-web rust-web-src cargo-web; \
                 else: rustup toolchain install nightly --component rust-src)",
            )?;
        if !strip().exists() {
            return Err(format!("{} is missing (Debian: llvm-22)", strip().display()));
        }
        let home = cargo_home().join("bin/bpf-linker");
        let bpf_linker = [root.join("target/tools/bin/bpf-linker"), home]
            .into_iter()
            .find(|path| {
                output(Command::new(path).arg("--version"))
                    .is_ok_and(|text| text.trim() == format!("bpf-linker {BPF_LINKER_VERSION}"))
            })
            .ok_or_else(|| format!("no bpf-linker {BPF_LINKER_VERSION}"))?;
        Ok(Self { cargo, rustc, bpf_linker })
    }

    fn describe(&self) -> Result<String, String> {
        let rustc = output(Command::new(&self.rustc).arg("--version"))?;
        let llvm = output(Command::new(strip()).arg("--version"))?;
        let llvm = llvm.lines().find(|line| line.contains("version")).unwrap_or("LLVM").trim();
        Ok(format!("{}; bpf-linker {BPF_LINKER_VERSION}; {llvm}", rustc.trim()))
    }

    /// The finished object. Flags from the caller's surroundings must not reach it.
    fn build(&self, root: &Path, log: bool) -> Result<Vec<u8>, String> {
        let target_dir = root.join("target/bpf");
        let mut cargo = Command::new(&self.cargo);
        cargo.current_dir(root.join("ebpf")).args(["build", "--quiet", "--release", "--locked"]);
        cargo.args(["--target", TARGET, "-Z", "build-std=core"]);
        if log {
            cargo.args(["--features", "log"]);
        }
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let is_cargo = text.starts_with("CARGO_") && text != "CARGO_HOME";
            if is_cargo || text.starts_with("RUST") && text != "RUSTUP_HOME" {
                cargo.env_remove(&name);
            }
        }
        let linker_dir = self.bpf_linker.parent().map(Path::to_path_buf).unwrap_or_default();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([linker_dir].into_iter().chain(env::split_paths(&path)))
            .map_err(|err| format!("PATH: {err}"))?;
        cargo.env("PATH", path).env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_TARGET_DIR", &target_dir);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags(root)?.join("\x1f"));
        must(&mut cargo)?;
        let built = target_dir.join(TARGET).join("release/steer");
        let stripped = target_dir.join("steer.bpf.o");
        must(Command::new(strip()).arg("-g").arg(&built).arg("-o").arg(&stripped))?;
        let object = read(&stripped)?;
        no_path_inside(root, &object)?;
        Ok(object)
    }

    fn flags(&self, root: &Path) -> Result<Vec<String>, String> {
        let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
        let mut remap = |from: &Path, to: &str| {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        };
        // The last prefix that fits wins, so the general ones come first.
        remap(&cargo_home(), "/cargo");
        for registry in fs::read_dir(cargo_home().join("registry/src")).into_iter().flatten() {
            let registry = registry.map_err(|err| format!("cargo's registry: {err}"))?;
            remap(&registry.path(), "/cargo");
        }
        let sources = core_sources(&self.rustc)?;
        remap(&sources, "/rust");
        if let Ok(real) = sources.canonicalize() {
            remap(&real, "/rust");
        }
        remap(root, "/sluice");
        Ok(flags)
    }
}

/// Packages when we may install them, then the linker.
fn install(root: &Path) -> Result<(), String> {
    let is_debian = Path::new("/etc/debian_version").exists();
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let missing = DEBIAN_PACKAGES.into_iter().filter(|name| {
        let status = output(Command::new("dpkg-query").args(["-W", "-f=${Status}", *name]));
        !status.is_ok_and(|text| text.ends_with("ok installed"))
    });
    let missing: Vec<_> = missing.collect();
    if is_debian && is_root && !missing.is_empty() {
        must(Command::new("apt-get").arg("update"))?;
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y"]);
        must(apt.args(["--no-install-recommends"]).args(&missing))?;
    } else if is_debian && !missing.is_empty() {
        println!("bpf: not root, so not installed: {}", missing.join(" "));
    }
    if Toolchain::find(root).is_ok() {
        return Ok(());
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", "llvm-22"]);
    cargo.arg("--root").arg(root.join("target/tools"));
    cargo.env("LLVM_PREFIX", LLVM_PREFIX).env_remove("CARGO_BUILD_BUILD_DIR");
    cargo.env("CARGO_TARGET_DIR", root.join("target/tools/build"));
    must(&mut cargo)
}

/// A path of the builder inside the object would make the bytes depend on where it was built.
fn no_path_inside(root: &Path, object: &[u8]) -> Result<(), String> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for path in [root.to_path_buf(), home, cargo_home()] {
        let path = path.to_string_lossy().into_owned();
        let needle = format!("{}/", path.trim_end_matches('/'));
        if needle.len() > 2 && object.windows(needle.len()).any(|part| part == needle.as_bytes()) {
            return Err(format!("{OBJECT} holds the build path {needle}; remap it in xtask"));
        }
    }
    Ok(())
}

fn nightly() -> Option<(PathBuf, PathBuf)> {
    let which =
        |tool| output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool]));
    let cargo = which("cargo").ok()?;
    let rustc = which("rustc").ok()?;
    Some((PathBuf::from(cargo.trim()), PathBuf::from(rustc.trim())))
}

fn core_sources(rustc: &Path) -> Result<PathBuf, String> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust"))
}

fn has_core_sources(rustc: &Path) -> bool {
    core_sources(rustc).is_ok_and(|dir| dir.join("library/core/src/lib.rs").exists())
}

fn strip() -> PathBuf {
    Path::new(LLVM_PREFIX).join("bin/llvm-strip")
}

fn cargo_home() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).unwrap_or_default()
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|err| format!("{}: {err}", path.display()))
}

fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|err| format!("{}: {err}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|err| format!("{}: {err}", path.display()))
}

fn output(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|err| format!("{command:?}: {err}"))?;
    if !out.status.success() {
        return Err(format!("{command:?}: {}", out.status));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn must(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|err| format!("{command:?}: {err}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

fn hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no BPF toolchain: who changes a source and forgets the object hears of it here.
    #[test]
    fn object_fits_its_sources() {
        check_digests(&root()).unwrap();
    }

    #[test]
    fn digest_file_reads_as_printed() {
        let digest = Recorded {
            sources: "aa".to_owned(),
            object: "bb".to_owned(),
            toolchain: "rustc 1; llvm 2".to_owned(),
        };
        assert_eq!(Recorded::parse(&digest.print()), Ok(digest));
        let wrong = Recorded::parse("sluice-bpf-digest 1\nobject sha256:aa\n").unwrap_err();
        assert!(wrong.contains("line 2 must start with \"sources sha256:\""), "{wrong}");
    }

    #[test]
    fn a_path_inside_is_found() {
        let root = Path::new("/some/where");
        assert!(no_path_inside(root, b"..\0/some/where/ebpf/src/peek.rs\0..").is_err());
        assert!(no_path_inside(root, b"..\0/sluice/ebpf/src/peek.rs\0..").is_ok());
    }
}

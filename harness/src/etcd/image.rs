//! The image that a member runs from.
//!
//! The image that is asked for, if the engine has it or can pull it. Else one that is built from the machine's
//! own `etcd`: the program and the shared libraries it needs, nothing else, tagged by their content.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use testcontainers::core::BuildImageOptions;
use testcontainers::runners::{AsyncBuilder, AsyncRunner};
use testcontainers::{GenericBuildableImage, GenericImage};
use tokio::sync::OnceCell;

use super::engine::{Engine, refused};
use super::{Error, program, system};

/// The environment variable that names the image to use.
pub(super) const VARIABLE: &str = "HARNESS_ETCD_IMAGE";
/// The name of images that are built here.
const BUILT: &str = "harness-etcd";

/// An image, by the two parts of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) tag: String,
}

impl Image {
    /// Splits `NAME[:TAG]`; the colon before a port belongs to the name.
    fn parse(text: &str) -> Self {
        match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => Self { name: name.to_owned(), tag: tag.to_owned() },
            _ => Self { name: text.to_owned(), tag: "latest".to_owned() },
        }
    }

    fn descriptor(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    /// The image to use, which the engine has when this returns. It is settled once per process.
    ///
    /// # Errors
    /// When none was asked for or it cannot be had, and none can be built either.
    pub(super) async fn obtain(engine: &Engine) -> Result<Self, Error> {
        static IMAGE: OnceCell<Image> = OnceCell::const_new();
        IMAGE.get_or_try_init(|| Self::settle(engine)).await.cloned()
    }

    async fn settle(engine: &Engine) -> Result<Self, Error> {
        if let Some(wanted) = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()) {
            let wanted = Self::parse(&wanted);
            if wanted.is_there(engine).await {
                return Ok(wanted);
            }
            tracing::info!(image = wanted.descriptor(), "pulling the etcd image");
            match GenericImage::new(&wanted.name, &wanted.tag).pull_image().await {
                Ok(_) => return Ok(wanted),
                Err(error) => {
                    let image = wanted.descriptor();
                    tracing::warn!(image, %error, "no such image to be had: using the machine's own etcd");
                }
            }
        }
        Self::build(engine).await
    }

    async fn is_there(&self, engine: &Engine) -> bool {
        engine.docker().inspect_image(&self.descriptor()).await.is_ok()
    }

    async fn build(engine: &Engine) -> Result<Self, Error> {
        let program = program().ok_or(Error::NoProgram)?;
        let libraries =
            libraries(&program).map_err(system(format!("listing the libraries of {}", program.display())))?;
        let reading = |path: &Path| system(format!("reading {}", path.display()));
        let mut files =
            vec![(fs::read(&program).map_err(reading(&program))?, PathBuf::from("/usr/local/bin/etcd"))];
        for library in libraries {
            files.push((fs::read(&library).map_err(reading(&library))?, library));
        }
        // Collisions and other versions of the hash do no harm: the worst is one more build.
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        let image = Self { name: BUILT.to_owned(), tag: format!("{:016x}", hasher.finish()) };
        if image.is_there(engine).await {
            return Ok(image);
        }

        tracing::info!(image = image.descriptor(), program = %program.display(), "building an etcd image");
        let mut recipe = "FROM scratch\n".to_owned();
        let mut build = GenericBuildableImage::new(&image.name, &image.tag);
        for (index, (content, path)) in files.into_iter().enumerate() {
            recipe.push_str(&format!("COPY --chmod=0755 {index} {}\n", path.display()));
            build = build.with_data(content, index.to_string());
        }
        recipe.push_str("ENTRYPOINT [\"/usr/local/bin/etcd\"]\n");
        let options = BuildImageOptions::new().with_skip_if_exists(true);
        let build = build.with_dockerfile_string(recipe).build_image_with(options);
        let what = format!("building the image {} from {}", image.descriptor(), program.display());
        let _built: GenericImage = build.await.map_err(refused(what))?;
        Ok(image)
    }
}

/// The shared libraries that `program` is linked to, its loader included; none if it is static.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// The absolute paths in `ldd`'s output: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn parse_ldd(output: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let location = line.split_once("=>").map_or(line, |(_, location)| location);
        let path = location.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    output.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_absolute_paths_that_ldd_prints() {
        let output = "\tlinux-vdso.so.1 (0x00007f2432b02000)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f243290f000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f2432b04000)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(output), paths.map(PathBuf::from));
        assert_eq!(parse_ldd("\tstatically linked\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_image_is_split_at_its_tag_and_not_at_a_port() {
        let image = |name: &str, tag: &str| Image { name: name.to_owned(), tag: tag.to_owned() };
        assert_eq!(Image::parse("etcd:v3.5.9"), image("etcd", "v3.5.9"));
        assert_eq!(Image::parse("mirror:5000/etcd"), image("mirror:5000/etcd", "latest"));
        assert_eq!(Image::parse("mirror:5000/etcd:v3.5.9"), image("mirror:5000/etcd", "v3.5.9"));
    }
}

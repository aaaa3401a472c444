//! The property list of launchd.

use std::path::PathBuf;

use super::{LABEL, Service};

/// The user's own, so that files there can be moved aside.
pub(super) const LOG_DIRECTORY: &str = "/usr/local/var/log/clawdbot";

/// The property list's text.
pub(super) fn property_list(service: &Service) -> String {
    let arguments: String = service
        .command()
        .iter()
        .map(|word| format!("\t\t<string>{}</string>\n", escaped(word)))
        .collect();
    let log = |name: &str| escaped(&service.log_directory.join(name).display().to_string());
    let errors = log("stderr.log");
    let limits = format!(
        "\t<dict>\n\t\t<key>NumberOfFiles</key>\n\t\t<integer>{}</integer>\n\t\t<key>Core</key>\n\t\t<integer>0</integer>\n\t</dict>\n",
        service.open_files
    );
    let log_file = if service.has_log_file {
        String::new()
    } else {
        format!(
            "\t<!-- launchd moves no logs aside; the daemon does with this one. -->
\t<key>EnvironmentVariables</key>
\t<dict>
\t\t<key>CLAWDBOT__LOG__FILE</key>
\t\t<string>{}</string>
\t</dict>
",
            log("clawdbot.log")
        )
    };
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by `clawdbot service install`, which writes it anew. -->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>{LABEL}</string>
	<key>ProgramArguments</key>
	<array>
{arguments}	</array>
	<key>UserName</key>
	<string>{user}</string>
	<key>GroupName</key>
	<string>{group}</string>
	<key>WorkingDirectory</key>
	<string>{data_dir}</string>
{log_file}	<!-- What the log cannot have: panics, and the inference process's words. -->
	<key>StandardOutPath</key>
	<string>{errors}</string>
	<key>StandardErrorPath</key>
	<string>{errors}</string>
	<!-- With nobody logged in, and again when it fell or was killed. One that hangs ends itself. -->
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>ThrottleInterval</key>
	<integer>{apart}</integer>
	<key>ExitTimeOut</key>
	<integer>{stop}</integer>
	<key>AbandonProcessGroup</key>
	<false/>
	<!-- Otherwise macOS holds daemons back in processor and disk, and keeps the model on the slow cores. -->
	<key>ProcessType</key>
	<string>Interactive</string>
	<!-- 077: what it makes is its user's alone. -->
	<key>Umask</key>
	<integer>63</integer>
	<!-- No limit on memory: macOS heeds none of ResidentSetSize. The memory governor holds the daemon to its share. A core file
	would have keys and conversations in it. -->
	<key>SoftResourceLimits</key>
{limits}	<key>HardResourceLimits</key>
{limits}</dict>
</plist>
"#,
        user = escaped(&service.user),
        group = escaped(&service.group),
        data_dir = escaped(&service.data_dir.display().to_string()),
        apart = service.starts_apart.as_secs(),
        stop = service.stops_within.as_secs(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

pub(super) fn data_dir_in(list: &str) -> Option<PathBuf> {
    string_in(list, "WorkingDirectory").map(PathBuf::from)
}

pub(super) fn user_in(list: &str) -> Option<String> {
    string_in(list, "UserName")
}

/// The word behind `--config` of the command.
pub(super) fn config_in(list: &str) -> Option<PathBuf> {
    let (_, behind) = list.split_once("<string>--config</string>")?;
    first_string(behind).map(PathBuf::from)
}

/// The text behind a key, in a list that was written above.
fn string_in(list: &str, key: &str) -> Option<String> {
    let (_, behind) = list.split_once(&format!("<key>{key}</key>"))?;
    first_string(behind)
}

fn first_string(text: &str) -> Option<String> {
    let (_, behind) = text.split_once("<string>")?;
    let (text, _) = behind.split_once("</string>")?;
    Some(
        text.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

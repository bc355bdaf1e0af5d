//! Keeps a pod shut until the policy engine knows it.
//!
//! kube-router learns of a pod 50 to 300 ms after its first process runs. Until then it judges a
//! connection by the other pod's rules alone, so a new pod that may reach nothing would reach every
//! pod that anybody may reach. Amazon's own network plug-in calls the remedy its strict mode: a pod
//! starts with everything denied. Here it is a set of addresses that may open and accept
//! connections; an address is in it as long as the pod exists and the engine has rules for it.
//!
//! When this, or the engine, does not work, new pods stay shut. What the node itself opens, such as
//! the kubelet's probes, is not held up.

use std::{collections::BTreeSet, fs, io, net::Ipv4Addr, path::Path, time::Duration};

use tokio::time::sleep;

use super::{
    PartFailure,
    network::{BRIDGE, tool},
    run,
};

const PART: &str = "network";
/// Its own table of nftables. Not an ipset: kube-router writes every set that it finds back as it
/// found it.
const TABLE: &str = "carapace";

/// How often to look whether pods came or went.
const INTERVAL: Duration = Duration::from_millis(50);
/// How often to look for rules that do not come.
const LONGEST_INTERVAL: Duration = Duration::from_millis(500);

/// Closes the gate for everyone.
pub(super) async fn close() -> Result<(), PartFailure> {
    let rules = format!(
        r#"table ip {TABLE} {{
            set known {{ type ipv4_addr; }}
            chain from_pod {{
                type filter hook prerouting priority mangle;
                iifname "{BRIDGE}" ct state new ip saddr != @known drop
            }}
            chain to_pod {{
                type filter hook forward priority mangle;
                oifname "{BRIDGE}" ct state new ip daddr != @known drop
            }}
        }}
        "#
    );
    run(PART, tool("nft", &["-f", "-"]), &rules).await.map(drop)
}

/// Opens the gate for pods as the engine learns of them, and closes it behind those that go, for as
/// long as the stack lives. `addresses` is where the CNI plug-in keeps a file for each in use.
pub(super) async fn keep(addresses: &Path) {
    let mut known = BTreeSet::new();
    let mut interval = INTERVAL;
    loop {
        match update(addresses, &mut known).await {
            // The rules of a pod that has just come are on their way.
            Ok(true) => interval = INTERVAL,
            Ok(false) => interval = (interval * 2).min(LONGEST_INTERVAL),
            Err(problem) => {
                eprintln!("the gate for new pods: {problem}");
                interval = LONGEST_INTERVAL;
            }
        }
        sleep(interval).await;
    }
}

/// Gives whether the set is now what it should be.
async fn update(addresses: &Path, known: &mut BTreeSet<Ipv4Addr>) -> Result<bool, String> {
    let in_use = in_use(addresses).map_err(|error| error.to_string())?;
    let mut wanted: BTreeSet<_> = known.intersection(&in_use).copied().collect();
    if wanted != in_use {
        let list = ["-w", "-S", "KUBE-ROUTER-FORWARD"];
        let rules = run(PART, tool("iptables", &list), "")
            .await
            .map_err(|failure| failure.problem)?;
        let newcomers = in_use.difference(known).copied();
        wanted.extend(newcomers.filter(|address| has_rules(&rules, *address)));
    }
    if wanted != *known {
        run(PART, tool("nft", &["-f", "-"]), &replacement(&wanted))
            .await
            .map_err(|failure| failure.problem)?;
        *known = wanted;
    }
    Ok(in_use == *known)
}

/// What makes the set hold exactly these, in one step.
fn replacement(addresses: &BTreeSet<Ipv4Addr>) -> String {
    let flush = format!("flush set ip {TABLE} known\n");
    if addresses.is_empty() {
        return flush;
    }
    let list: Vec<_> = addresses.iter().map(Ipv4Addr::to_string).collect();
    format!(
        "{flush}add element ip {TABLE} known {{ {} }}\n",
        list.join(", ")
    )
}

/// The addresses that pods have, according to the plug-in that gave them out.
fn in_use(addresses: &Path) -> io::Result<BTreeSet<Ipv4Addr>> {
    match fs::read_dir(addresses) {
        // It makes the directory for the first pod.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()),
    }
}

/// Whether the engine judges what comes from `address`. It writes all rules of a pod in one step.
fn has_rules(rules: &str, address: Ipv4Addr) -> bool {
    let source = format!(" -s {address}/32 ");
    rules
        .lines()
        .any(|rule| rule.contains(&source) && rule.contains(" -j KUBE-POD-FW-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_its_own_rule_only() {
        let rules = "-N KUBE-ROUTER-FORWARD\n\
            -A KUBE-ROUTER-FORWARD -d 10.244.0.3/32 -j KUBE-POD-FW-AAAA\n\
            -A KUBE-ROUTER-FORWARD -s 10.244.0.21/32 -m comment --comment \"x\" -j KUBE-POD-FW-BBBB\n";
        assert!(has_rules(rules, Ipv4Addr::new(10, 244, 0, 21)));
        assert!(!has_rules(rules, Ipv4Addr::new(10, 244, 0, 2)));
        assert!(!has_rules(rules, Ipv4Addr::new(10, 244, 0, 3)));
    }

    #[test]
    fn addresses_are_the_files_that_are_named_so() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["10.244.0.7", "last_reserved_ip.0", "lock"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let expected = BTreeSet::from([Ipv4Addr::new(10, 244, 0, 7)]);
        assert_eq!(in_use(dir.path()).unwrap(), expected);
        assert!(in_use(&dir.path().join("none")).unwrap().is_empty());
    }
}

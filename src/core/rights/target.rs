//! Which roles may be impersonated: none that carries privileges beyond those on data.

/// A role as the catalogs describe it.
#[derive(Clone, Debug, Default)]
pub struct RoleFacts {
    pub oid: u32,
    pub name: String,
    pub is_superuser: bool,
    pub bypasses_row_security: bool,
    pub can_replicate: bool,
    pub can_create_roles: bool,
}

/// Roles that are off limits in this database.
#[derive(Clone, Debug, Default)]
pub struct OffLimits {
    /// The login that impersonates (0 where there is none, as when a mapping is written).
    pub impersonator: u32,
    pub extension_owner: u32,
    /// `bodata_impersonate_user`, `immuta_impersonation`, `immuta_admin`.
    pub control_roles: [u32; 3],
    /// `immuta_mappable`, `immuta_subscriber`: others are members of them, nobody is them.
    pub markers: [u32; 2],
}

/// Predefined roles that read or write the server's files, run programs, signal other sessions or see their
/// statements, which may hold tokens; that see settings of superusers, or lock and rebuild any table, this extension's
/// too; that take connections which are kept for others, make checkpoints, or have the server connect elsewhere.
const REACHES_THE_SERVER: [&str; 14] = [
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_signal_backend",
    "pg_signal_autovacuum_worker",
    "pg_read_all_stats",
    "pg_read_all_settings",
    "pg_stat_scan_tables",
    "pg_monitor",
    "pg_maintain",
    "pg_checkpoint",
    "pg_use_reserved_connections",
    "pg_create_subscription",
    "pg_database_owner",
];

/// Why a role may not be impersonated, or `None` if it may.
///
/// `roles` is the role itself followed by every role it is a member of, directly or not: what any of them may do, it
/// may come to do.
pub fn refusal(roles: &[RoleFacts], off_limits: &OffLimits) -> Option<String> {
    let (target, memberships) = roles.split_first()?;
    if matches!(target.name.as_str(), "none" | "public") || target.name.starts_with("pg_") {
        return Some("it is a reserved role".into());
    }
    if off_limits.markers.contains(&target.oid) {
        return Some("it marks other roles".into());
    }
    if let Some(why) = privilege(target, off_limits) {
        return Some(format!("it {why}"));
    }
    memberships.iter().find_map(|role| {
        privilege(role, off_limits).map(|why| format!("it is a member of \"{}\", which {why}", role.name))
    })
}

fn privilege(role: &RoleFacts, off_limits: &OffLimits) -> Option<&'static str> {
    if role.is_superuser {
        Some("is a superuser")
    } else if role.bypasses_row_security {
        Some("bypasses row level security")
    } else if role.can_replicate {
        Some("has the REPLICATION attribute")
    } else if role.can_create_roles {
        Some("has the CREATEROLE attribute")
    } else if REACHES_THE_SERVER.contains(&role.name.as_str()) {
        Some("reaches beyond the database")
    } else if role.oid == off_limits.impersonator {
        Some("is the impersonating login")
    } else if role.oid == off_limits.extension_owner {
        Some("owns the extension")
    } else if off_limits.control_roles.contains(&role.oid) {
        Some("controls impersonation")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(oid: u32, name: &str) -> RoleFacts {
        RoleFacts { oid, name: name.into(), ..RoleFacts::default() }
    }

    fn off_limits() -> OffLimits {
        OffLimits { impersonator: 100, extension_owner: 10, control_roles: [20, 21, 22], markers: [30, 31] }
    }

    #[test]
    fn an_ordinary_role_may_be_impersonated() {
        let roles = [role(1, "alice"), role(2, "analysts"), role(3, "pg_read_all_data")];
        assert_eq!(refusal(&roles, &off_limits()), None);
    }

    #[test]
    fn each_privilege_refuses_directly_and_through_membership() {
        let privileged = [
            RoleFacts { is_superuser: true, ..role(5, "p") },
            RoleFacts { bypasses_row_security: true, ..role(5, "p") },
            RoleFacts { can_replicate: true, ..role(5, "p") },
            RoleFacts { can_create_roles: true, ..role(5, "p") },
            role(100, "service"),
            role(10, "owner"),
            role(20, "bodata_impersonate_user"),
            role(21, "immuta_impersonation"),
            role(22, "immuta_admin"),
        ];
        for p in privileged {
            assert!(refusal(std::slice::from_ref(&p), &off_limits()).is_some(), "{p:?}");
            assert!(refusal(&[role(1, "alice"), p.clone()], &off_limits()).is_some(), "member of {p:?}");
        }
        for name in REACHES_THE_SERVER {
            assert!(refusal(&[role(1, "alice"), role(6, name)], &off_limits()).is_some(), "{name}");
        }
    }

    #[test]
    fn markers_mark_others() {
        for marker in [30, 31] {
            assert!(refusal(&[role(marker, "m")], &off_limits()).is_some());
            assert_eq!(refusal(&[role(1, "alice"), role(marker, "m")], &off_limits()), None);
        }
    }

    #[test]
    fn reserved_names_are_refused() {
        for name in ["none", "public", "pg_monitor", "pg_database_owner"] {
            assert!(refusal(&[role(1, name)], &off_limits()).is_some(), "{name}");
        }
    }
}

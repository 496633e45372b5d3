"""The control interface: a Unix socket in the data directory, for operators of the same user.

`protocol` has the lines and their bounds, `params` reads parameters, `server` runs in the daemon,
`client` in the command line. Methods and what they take and return (hex is lower-case; identifiers
are 32 bytes; times are milliseconds since 1970 by ledger time unless a name says otherwise):

- `status {}`, `images {}`, `peers {}`, `doctor {}`, `stop {}`, `ledger {from?}`.
- `publish {path, product, version, groups, sequence?, metadata?}`: progress `{stage, bytes,
  total}`; result `{manifest, sequence, transaction}`.
- `wait {manifest, for: authorised|complete|revoked, timeout_s}`.
- `manifest {manifest}`: `{manifest, raw, chain, era, now_ms, publisher, groups: [{group, status,
  policy, approve_threshold, revoke_threshold, owners: [{name, key}], approvals: [name],
  revocations: [name], latest: {manifest, version, sequence, size}|null}]}`. `raw` is the signed
  manifest: approvers read it, not the daemon's word for it. `key` is a did:key.
- `submit_approvals {manifest, action: authorise|revoke, approvals: [COSE]}`:
  `{transactions, height}`.
- `fetch {manifest, component?}`: progress as above; `{path, sha256, size}`.
- `prove {manifest, group?}`: `{proof}`.
- `resolve {did, proof: bool}`: `{resolution, kind, name, groups, attributes, versions, policies,
  changes, rotations, chain, era, now_ms, proof}`; `versions` and `policies` by group.
- `decide_subject {decision: [file]}`, `rotate_keys {body: [did.rotate]}`: `{transaction, height}`.
- `enrol {request: [file]}`: `{did, transaction, height}`, or not yet: it waits for confirmation;
  `enrol_pending {}`: `{chain, era, now_ms, policies, requests: [file], missing: [[group]]}`;
  `enrol_confirm {did, approvals: [COSE]}`: as `enrol`.
"""

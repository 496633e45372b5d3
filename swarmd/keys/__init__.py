"""Private keys at rest and whatever else signs: key files, passphrases, PKCS#11 devices.

`swarmd.keys.signer.open_signer` reads what `--key` names; everything that signs takes the small
interface `protocol.keys.Signer` (public key, sign). docs/adr/0007-keys-at-rest.md has the reasons.
"""

// Answers questions with @sigstore/verify: one JSON object a line on stdin, one on stdout for each.
// Question: {bundle, root, key?, identity?, issuer?, timestamps}; files by path, key as PEM. Answer: {ok, error}.
const fs = require('fs')
const crypto = require('crypto')
const readline = require('readline')
const { bundleFromJSON } = require('@sigstore/bundle')
const { TrustedRoot } = require('@sigstore/protobuf-specs')
const { Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify')

function verify(question) {
  const root = TrustedRoot.fromJSON(JSON.parse(fs.readFileSync(question.root)))
  const finder = (hint) => {
    const publicKey = crypto.createPublicKey(fs.readFileSync(question.key))
    const spki = publicKey.export({ type: 'spki', format: 'der' })
    if (crypto.createHash('sha256').update(spki).digest('base64') !== hint) throw new Error('another key')
    return { publicKey, validFor: () => true }
  }
  const verifier = new Verifier(toTrustMaterial(root, question.key ? finder : undefined), {
    timestampThreshold: question.timestamps,
  })
  const bundle = bundleFromJSON(JSON.parse(fs.readFileSync(question.bundle)))
  const policy = question.identity
    ? { subjectAlternativeName: question.identity, extensions: { issuer: question.issuer } }
    : undefined
  verifier.verify(toSignedEntity(bundle), policy)
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  let answer = { ok: true, error: '' }
  try {
    verify(JSON.parse(line))
  } catch (error) {
    answer = { ok: false, error: String(error.message || error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
})

// The rekor-tiles server, release v2.4.1, with two dependencies at the versions that the module proxy serves.
package main

import "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix/app"

func main() { app.Execute() }

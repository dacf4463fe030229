// Package gitops keeps the versions of the API types of Flux, from which the tests make the CustomResourceDefinitions that
// deploy/examples/flux is applied to.
package gitops

import (
	_ "github.com/fluxcd/helm-controller/api/v2"
	_ "github.com/fluxcd/source-controller/api/v1"
)

package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// codeOf maps the class of an error to the gRPC code that kubelet sees.
func codeOf(reason volume.Reason) codes.Code {
	switch reason {
	case volume.ReasonInvalidClass, volume.ReasonInvalidRequest, volume.ReasonInvalidContent:
		return codes.InvalidArgument
	case volume.ReasonClassNotFound, volume.ReasonNotFound:
		return codes.NotFound
	case volume.ReasonIdentity, volume.ReasonPermission, volume.ReasonFirewall, volume.ReasonDisabled:
		return codes.PermissionDenied
	case volume.ReasonThrottled:
		return codes.ResourceExhausted
	case volume.ReasonTokenExpired, volume.ReasonDNS, volume.ReasonProxy, volume.ReasonNetwork, volume.ReasonUnavailable, volume.ReasonNotReady:
		return codes.Unavailable
	case volume.ReasonFilesystem, volume.ReasonInternal:
		return codes.Internal
	}
	return codes.Internal
}

// rpcError makes the one line that a caller sees. It is the only place where errors get a code.
func rpcError(ref volume.Ref, err error) error {
	code := codeOf(volume.ReasonOf(err))
	if _, classified := errors.AsType[*volume.Error](err); !classified {
		switch {
		case errors.Is(err, refresh.ErrUnpublished):
			code = codes.Aborted
		case errors.Is(err, context.Canceled):
			code = codes.Canceled
		case errors.Is(err, context.DeadlineExceeded):
			code = codes.DeadlineExceeded
		}
	}
	return &callError{status: status.New(code, describe(ref)+err.Error()), cause: err}
}

// callError is a status that keeps its cause, for the log.
type callError struct {
	status *status.Status
	cause  error
}

// Error implements error.
func (e *callError) Error() string { return e.status.Message() }

// GRPCStatus gives gRPC the code and the message.
func (e *callError) GRPCStatus() *status.Status { return e.status }

// Unwrap returns the cause.
func (e *callError) Unwrap() error { return e.cause }

// describe names the Pod and the class where they are known.
func describe(ref volume.Ref) string {
	switch {
	case ref.Pod.Name == "":
		return ""
	case ref.Class == "":
		return "pod " + ref.Pod.String() + ": "
	}
	return "pod " + ref.Pod.String() + ", class " + ref.Class + ": "
}

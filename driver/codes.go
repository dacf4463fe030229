package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codeOf(volume.ReasonOf(err))
	if _, classified := errors.AsType[*volume.Error](err); !classified {
		switch {
		case errors.Is(err, context.Canceled):
			code = codes.Canceled
		case errors.Is(err, context.DeadlineExceeded):
			code = codes.DeadlineExceeded
		}
	}
	return &callError{status: status.New(code, describe(ref)+err.Error()), cause: err}
}

// requestID is the service's id of the request that failed, empty where none did.
func requestID(err error) string {
	if e, ok := errors.AsType[*volume.Error](err); ok {
		return e.RequestID
	}
	return ""
}

// callError is a status that remembers where it comes from, for the log.
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

// describe names the volume as far as it is known.
func describe(ref volume.Ref) string {
	switch {
	case ref.Pod.Name == "":
		return ""
	case ref.Class == "":
		return "pod " + ref.Pod.String() + ": "
	}
	return "pod " + ref.Pod.String() + ", class " + ref.Class + ": "
}

// Package tracing sends traces to an OpenTelemetry collector (OTLP). It is the only place that knows exporters.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// The environment variables of the OpenTelemetry specification that are read here; the SDK reads more of them.
const (
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	envTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	envDisabled       = "OTEL_SDK_DISABLED"
	tracesPath        = "v1/traces"
)

// flushTimeout bounds how long the end of the process waits for a collector.
const flushTimeout = 5 * time.Second

// repeatInterval is how long the same failure of the exporter is not logged again.
const repeatInterval = 10 * time.Minute

// Options configure Start.
type Options struct {
	// Endpoint is the collector's base URL. Where empty the environment's counts (OTEL_EXPORTER_OTLP_ENDPOINT,
	// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT); where that is empty too, traces are off.
	Endpoint string
	// Service, Version and Node describe who sends; Node may be empty.
	Service, Version, Node string
	Log                    *slog.Logger
}

// Traces makes spans and sends them in the background.
type Traces struct {
	trace.TracerProvider
	// On is false where nothing is recorded.
	On  bool
	end func(context.Context) error
}

// Start returns traces, which are off unless an endpoint is named. It does not wait for the collector. Close must be
// called.
func Start(ctx context.Context, o Options) (*Traces, error) {
	off := strings.EqualFold(os.Getenv(envDisabled), "true") ||
		o.Endpoint == "" && os.Getenv(envEndpoint) == "" && os.Getenv(envTracesEndpoint) == ""
	if off {
		return &Traces{TracerProvider: noop.NewTracerProvider(), end: func(context.Context) error { return nil }}, nil
	}
	exporter, err := newExporter(ctx, o.Endpoint)
	if err != nil {
		return nil, err
	}
	// the environment's attributes go over ours
	sender := []attribute.KeyValue{attribute.String("service.name", o.Service), attribute.String("service.version", o.Version)}
	if o.Node != "" {
		sender = append(sender, attribute.String("k8s.node.name", o.Node))
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(sender...),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("traces: %w", err)
	}
	otel.SetLogger(logr.FromSlogHandler(o.Log.Handler()))
	otel.SetErrorHandler(&complaints{log: o.Log, logged: map[string]time.Time{}})
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return &Traces{TracerProvider: provider, On: true, end: provider.Shutdown}, nil
}

// Close sends what waits, within a bound.
func (t *Traces) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.end(ctx); err != nil {
		return fmt.Errorf("traces: %w", err)
	}
	return nil
}

// newExporter speaks the protocol of the environment, HTTP where it names none.
func newExporter(ctx context.Context, endpoint string) (*otlptrace.Exporter, error) {
	protocol := os.Getenv(envTracesProtocol)
	if protocol == "" {
		protocol = os.Getenv(envProtocol)
	}
	var base *url.URL
	if endpoint != "" {
		var err error
		if base, err = url.Parse(endpoint); err != nil || base.Host == "" ||
			base.Scheme != "http" && base.Scheme != "https" {
			return nil, fmt.Errorf(
				"--otlp-endpoint %q is not an http or https URL: write http://collector.example:4318",
				endpoint,
			)
		}
	}
	var exporter *otlptrace.Exporter
	var err error
	switch protocol {
	case "", "http/protobuf":
		var options []otlptracehttp.Option
		if base != nil {
			options = append(options, otlptracehttp.WithEndpointURL(base.JoinPath(tracesPath).String()))
		}
		exporter, err = otlptracehttp.New(ctx, options...)
	case "grpc":
		var options []otlptracegrpc.Option
		if base != nil {
			options = append(options, otlptracegrpc.WithEndpointURL(base.String()))
		}
		exporter, err = otlptracegrpc.New(ctx, options...)
	default:
		return nil, fmt.Errorf("%s %q is not known: use http/protobuf or grpc", envProtocol, protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return exporter, nil
}

// complaints takes the exporter's failures: a collector that is away is one story, not one for each batch.
type complaints struct {
	log    *slog.Logger
	mu     sync.Mutex
	logged map[string]time.Time
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := err.Error()
	if now := time.Now(); now.Sub(c.logged[text]) > repeatInterval {
		clear(c.logged) // it holds the last failure only
		c.logged[text] = now
		c.log.Warn("traces are not delivered", logkeys.Error, text)
	}
}

package logging

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	azlog "github.com/Azure/azure-sdk-for-go/sdk/azcore/log"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/go-logr/logr"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

// The verbosities of what libraries log. The driver itself logs whether something failed: what libraries add is for a closer
// look, and gRPC's connections and streams are noise below the highest levels.
const (
	grpcVerbosity = 9
	sdkVerbosity  = 6
)

// Join routes the lines of klog, gRPC and the Azure SDK into log. They keep process-wide loggers: call it once, before
// they are used.
func Join(log *slog.Logger) {
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
	grpclog.SetLoggerV2(grpcLogger{log.With("from", "grpc")})
	// Not EventResponseError: it holds bodies, and what it says is said by the error itself. Headers are the SDK's allowed
	// ones, the others are redacted; bodies are not logged.
	azlog.SetEvents(azlog.EventRequest, azlog.EventResponse, azidentity.EventAuthentication)
	sdk := log.With("from", "azure sdk")
	azlog.SetListener(func(event azlog.Event, text string) {
		// the first line says what the rest details
		first, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
		sdk.Log(context.Background(), Level(sdkVerbosity), first, "event", string(event), "details", strings.Join(strings.Fields(rest), " ")) //nolint:sloglint // the SDK's own words
	})
}

// grpcLogger implements grpclog.LoggerV2.
type grpcLogger struct{ log *slog.Logger }

func (g grpcLogger) say(level slog.Level, text string) {
	g.log.Log(context.Background(), level, strings.TrimSpace(text)) //nolint:sloglint // gRPC's own words
}

// Info implements grpclog.LoggerV2.
func (g grpcLogger) Info(args ...any) { g.say(Level(grpcVerbosity), fmt.Sprint(args...)) }

// Infoln implements grpclog.LoggerV2.
func (g grpcLogger) Infoln(args ...any) { g.say(Level(grpcVerbosity), fmt.Sprintln(args...)) }

// Infof implements grpclog.LoggerV2.
func (g grpcLogger) Infof(format string, args ...any) {
	g.say(Level(grpcVerbosity), fmt.Sprintf(format, args...))
}

// Warning implements grpclog.LoggerV2.
func (g grpcLogger) Warning(args ...any) { g.say(Level(grpcVerbosity-1), fmt.Sprint(args...)) }

// Warningln implements grpclog.LoggerV2.
func (g grpcLogger) Warningln(args ...any) { g.say(Level(grpcVerbosity-1), fmt.Sprintln(args...)) }

// Warningf implements grpclog.LoggerV2.
func (g grpcLogger) Warningf(format string, args ...any) {
	g.say(Level(grpcVerbosity-1), fmt.Sprintf(format, args...))
}

// Error implements grpclog.LoggerV2.
func (g grpcLogger) Error(args ...any) { g.say(slog.LevelWarn, fmt.Sprint(args...)) }

// Errorln implements grpclog.LoggerV2.
func (g grpcLogger) Errorln(args ...any) { g.say(slog.LevelWarn, fmt.Sprintln(args...)) }

// Errorf implements grpclog.LoggerV2.
func (g grpcLogger) Errorf(format string, args ...any) {
	g.say(slog.LevelWarn, fmt.Sprintf(format, args...))
}

// Fatal implements grpclog.LoggerV2.
func (g grpcLogger) Fatal(args ...any) { g.end(fmt.Sprint(args...)) }

// Fatalln implements grpclog.LoggerV2.
func (g grpcLogger) Fatalln(args ...any) { g.end(fmt.Sprintln(args...)) }

// Fatalf implements grpclog.LoggerV2.
func (g grpcLogger) Fatalf(format string, args ...any) { g.end(fmt.Sprintf(format, args...)) }

func (g grpcLogger) end(text string) {
	g.say(slog.LevelError, text)
	os.Exit(1) // what the interface demands
}

// V implements grpclog.LoggerV2.
func (g grpcLogger) V(level int) bool {
	return g.log.Enabled(context.Background(), Level(grpcVerbosity+level))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// flags are those of keyvault-emulator.
type flags struct {
	listen, seedFile, dataDir, tlsDir, caFile, caKeyFile, caSecret, logFormat string

	latency       time.Duration
	http1         bool
	throttle      bool
	clusterIssuer bool

	eventsTo     []string
	controlHosts []string
	eventsCAFile string

	// options finds these: the issuer of --cluster-issuer, and the text of --seed.
	cluster  *emulator.Issuer
	seedText []byte
}

const defaultListen = "127.0.0.1:8200"

func (f *flags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.listen, "listen", defaultListen,
		"`address` of the proxy and of the control API; port 0 takes a free one")
	fs.StringVar(&f.seedFile, "seed", "", "YAML `file` with tenants, identities, vaults and objects to begin with; when it changes, so do they")
	fs.StringVar(&f.dataDir, "data-dir", "",
		"`directory` that keeps vaults, clock and authority; vaults that it has are not taken from --seed again. Empty: nothing is kept")
	fs.StringVar(&f.tlsDir, "tls-dir", "", "`directory` to write ca.pem to, the authority that clients must trust")
	fs.StringVar(&f.caFile, "ca-file", "",
		"PEM `file` with the authority's certificate; empty: one is made at each start")
	fs.StringVar(&f.caKeyFile, "ca-key-file", "", "PEM `file` with the key of --ca-file")
	fs.StringVar(&f.caSecret, "ca-secret", "",
		"in a Pod: `NAMESPACE/NAME` of a Secret that keeps the authority as ca.crt and ca.key; where it is empty, one is made and put there")
	fs.BoolVar(
		&f.clusterIssuer,
		"cluster-issuer",
		false,
		"in a Pod: ask the API server for its issuer and keys of service account tokens, and take it for the issuer \"cluster\" of the seed",
	)
	fs.DurationVar(&f.latency, "latency", 0, "how long every answer takes")
	fs.BoolVar(&f.throttle, "throttle", false, "refuse requests beyond Key Vault's documented limits of a vault in ten seconds, with 429")
	fs.BoolVar(&f.http1, "http1", false, "do not serve HTTP/2")
	fs.StringArrayVar(&f.eventsTo, "events-to", nil,
		"`URL` of a storage queue or a web hook that gets an event for each new version of an object; may be given more than once")
	fs.StringVar(&f.eventsCAFile, "events-ca-file", "", "PEM `file` of authorities of the certificates behind --events-to")
	fs.StringArrayVar(&f.controlHosts, "control-host", nil,
		"one more host `name` of the control API and its page, beside addresses, localhost and names in a cluster; may be given more than once")
	fs.StringVar(&f.logFormat, "log-format", logging.Text, "`text or json`")
}

// options reads the files that the flags name.
func (f *flags) options(ctx context.Context, log *slog.Logger) (emulator.Options, error) {
	o := emulator.Options{HTTP1: f.http1, Throttle: f.throttle, DataDir: f.dataDir, Log: log, ControlHosts: f.controlHosts}
	for _, text := range f.eventsTo {
		target, err := emulator.ParseEventTarget(text)
		if err != nil {
			return o, fmt.Errorf("--events-to: %w", err)
		}
		o.Events = append(o.Events, target)
	}
	if f.eventsCAFile != "" {
		var err error
		if o.EventsCA, err = os.ReadFile(f.eventsCAFile); err != nil {
			return o, fmt.Errorf("--events-ca-file: %w", err)
		}
	}
	var err error
	if o.Certificate, o.Key, err = f.authority(ctx); err != nil {
		return o, err
	}
	if f.clusterIssuer {
		issuer, err := askCluster(ctx)
		if err != nil {
			return o, fmt.Errorf("--cluster-issuer: %w", err)
		}
		log.InfoContext(ctx, "tokens of the cluster are known", "issuer", issuer.Issuer)
		f.cluster = &issuer
	}
	if f.seedFile != "" {
		if f.seedText, err = readSeed(f.seedFile); err != nil {
			return o, err
		}
	}
	o.Seed, err = f.seed(f.seedText)
	return o, err
}

// authority reads the authority that the flags name; empty where they name none.
func (f *flags) authority(ctx context.Context) (certificate, key []byte, err error) {
	switch {
	case f.caSecret != "" && f.caFile+f.caKeyFile != "":
		return nil, nil, errors.New("--ca-secret and --ca-file name the same thing: give one")
	case (f.caFile == "") != (f.caKeyFile == ""):
		return nil, nil, errors.New("--ca-file and --ca-key-file go together: an authority is a certificate and its key")
	case f.caFile != "":
		var errKey error
		certificate, err = os.ReadFile(f.caFile)
		key, errKey = os.ReadFile(f.caKeyFile)
		if err := errors.Join(err, errKey); err != nil {
			return nil, nil, fmt.Errorf("authority: %w", err)
		}
	case f.caSecret != "":
		client, server, err := inCluster()
		if err == nil {
			certificate, key, err = clusterAuthority(ctx, client, server, f.caSecret)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("--ca-secret: %w", err)
		}
	}
	return certificate, key, nil
}

// seed is the seed of a text, with what other flags say of it. options must have been called.
func (f *flags) seed(text []byte) (seed emulator.Seed, err error) {
	if f.seedFile != "" {
		if seed, err = parseSeed(f.seedFile, text); err != nil {
			return seed, err
		}
	}
	if f.latency > 0 {
		seed.Latency = emulator.Duration(f.latency)
	}
	if f.cluster != nil {
		seed.AddCluster(*f.cluster)
	}
	return seed, nil
}

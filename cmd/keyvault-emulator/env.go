package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envFlags are those of `keyvault-emulator env`. listen, tls-dir, ca-file and seed mean what they mean to the emulator,
// so that one set of arguments serves both.
type envFlags struct {
	listen, tlsDir, caFile, seedFile string

	clientID, output string
	noProxy          []string
}

// The values of --output.
const (
	outputShell  = "sh"
	outputDotenv = "dotenv"
	outputJSON   = "json"
)

func (f *envFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.listen, "listen", defaultListen, "`address` that the emulator listens on")
	fs.StringVar(&f.tlsDir, "tls-dir", "", "`directory` that the emulator wrote ca.pem to")
	fs.StringVar(&f.caFile, "ca-file", "", "PEM `file` with the authority's certificate, in place of --tls-dir")
	fs.StringVar(&f.seedFile, "seed", "",
		"the emulator's YAML `file`: tenant, client ID and client secret of its first application with a secret are printed too")
	fs.StringVar(&f.clientID, "client-id", "", "client `ID` of another application of --seed")
	fs.StringSliceVar(&f.noProxy, "no-proxy", nil,
		"`hosts` that clients reach without the emulator, beside this machine: it refuses all but Azure's")
	fs.StringVarP(&f.output, "output", "o", outputShell, "`format`: sh (export lines), dotenv or json")
}

func envCommand() *cobra.Command {
	var f envFlags
	c := &cobra.Command{
		Use:   "env",
		Short: "Print the environment variables with which Azure clients use the emulator",
		Long: `env prints the environment variables with which unmodified Azure clients use an emulator that runs
on this machine: the proxy, in upper and lower case because clients differ in which they read, and
the authority that they must trust. SSL_CERT_FILE is for Go, .NET, Ruby and OpenSSL,
NODE_EXTRA_CA_CERTS for Node.js, REQUESTS_CA_BUNDLE for Python, and CURL_CA_BUNDLE for curl. All but
NODE_EXTRA_CA_CERTS replace the system's authorities; the emulator refuses other hosts anyway.`,
		Example: `  keyvault-emulator --seed seed.yaml --tls-dir /tmp/emulator

  # in another terminal
  eval "$(keyvault-emulator env --seed seed.yaml --tls-dir /tmp/emulator)"
  my-program https://contoso.vault.azure.net      # any program of yours

  # for a container on the host's network
  keyvault-emulator env --tls-dir /tmp/emulator --output dotenv >emulator.env
  docker run --network host --env-file emulator.env -v /tmp/emulator:/tmp/emulator:ro IMAGE`,
		Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			variables, err := f.variables(time.Now())
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), variables)
		},
	}
	f.register(c.Flags())
	return c
}

type variable struct{ name, value string }

// variables returns what a client needs. now decides which client secrets have expired.
func (f *envFlags) variables(now time.Time) ([]variable, error) {
	proxy, err := proxyURL(f.listen)
	if err != nil {
		return nil, err
	}
	authority, err := f.authority()
	if err != nil {
		return nil, err
	}
	noProxy := strings.Join(append([]string{"localhost", "127.0.0.1", "::1"}, f.noProxy...), ",")
	variables := []variable{
		{"HTTPS_PROXY", proxy},
		{"HTTP_PROXY", proxy},
		{"NO_PROXY", noProxy},
		{"https_proxy", proxy},
		{"http_proxy", proxy},
		{"no_proxy", noProxy},
		{"SSL_CERT_FILE", authority},
		{"NODE_EXTRA_CA_CERTS", authority},
		{"REQUESTS_CA_BUNDLE", authority},
		{"CURL_CA_BUNDLE", authority},
	}
	if f.seedFile == "" {
		if f.clientID != "" {
			return nil, errors.New("--client-id selects an application of --seed: give that too")
		}
		return variables, nil
	}
	credential, err := f.credential(now)
	if err != nil {
		return nil, err
	}
	return append(variables, credential...), nil
}

// proxyURL is the address at which a client of this machine reaches what listens there.
func proxyURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("--listen %s: %w", listen, err)
	}
	if port == "0" || port == "" {
		return "", fmt.Errorf("--listen %s: name the port that the emulator printed at its start", listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// authority is the absolute path of the authority's file, because clients run in other directories.
func (f *envFlags) authority() (string, error) {
	path := f.caFile
	switch {
	case f.tlsDir != "" && f.caFile != "":
		return "", errors.New("--tls-dir and --ca-file name the same thing: give one")
	case f.tlsDir != "":
		path = filepath.Join(f.tlsDir, authorityFile)
	case f.caFile == "":
		return "", errors.New("--tls-dir is missing: the directory that was given to the emulator, which wrote ca.pem there")
	}
	data, err := os.ReadFile(path) //nolint:gosec // the user names it
	if errors.Is(err, os.ErrNotExist) && f.tlsDir != "" {
		return "", fmt.Errorf("%s is not there: start the emulator with --tls-dir %s first", path, f.tlsDir)
	}
	if err != nil {
		return "", fmt.Errorf("authority: %w", err)
	}
	if block, _ := pem.Decode(data); block == nil || block.Type != "CERTIFICATE" {
		return "", fmt.Errorf("%s is not a certificate in PEM", path)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("authority: %w", err)
	}
	return absolute, nil
}

// credential is what DefaultAzureCredential and EnvironmentCredential of every SDK read.
func (f *envFlags) credential(now time.Time) ([]variable, error) {
	text, err := readSeed(f.seedFile)
	if err != nil {
		return nil, err
	}
	seed, err := parseSeed(f.seedFile, text)
	if err != nil {
		return nil, err
	}
	for _, tenant := range seed.Tenants {
		for _, application := range tenant.Applications {
			if f.clientID != "" && !strings.EqualFold(f.clientID, application.ClientID) {
				continue
			}
			for _, secret := range application.Secrets {
				if secret.Expires.IsZero() || secret.Expires.After(now) {
					return []variable{
						{"AZURE_TENANT_ID", tenant.ID},
						{"AZURE_CLIENT_ID", application.ClientID},
						{"AZURE_CLIENT_SECRET", secret.Value},
					}, nil
				}
			}
		}
	}
	who := "no application"
	if f.clientID != "" {
		who = "no application " + f.clientID
	}
	return nil, fmt.Errorf("%s: %s with a client secret that is valid: add one, or leave --seed out", f.seedFile, who)
}

// plain is text that a shell takes as it is.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:,@%+=-]+$`)

func (f *envFlags) print(w io.Writer, variables []variable) error {
	var out bytes.Buffer
	switch f.output {
	case outputShell:
		for _, v := range variables {
			value := v.value
			if !plain.MatchString(value) {
				value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
			}
			fmt.Fprintf(&out, "export %s=%s\n", v.name, value)
		}
	case outputDotenv:
		for _, v := range variables {
			if strings.ContainsAny(v.value, "\r\n") {
				return fmt.Errorf("%s has several lines, which dotenv cannot hold: use --output sh or json", v.name)
			}
			fmt.Fprintf(&out, "%s=%s\n", v.name, v.value)
		}
	case outputJSON:
		all := make(map[string]string, len(variables))
		for _, v := range variables {
			all[v.name] = v.value
		}
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(all); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	default:
		return fmt.Errorf("--output %s: it is sh, dotenv or json", f.output)
	}
	if _, err := out.WriteTo(w); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

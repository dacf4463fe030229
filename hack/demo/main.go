// Command demo shows the driver's main job on one machine: no Azure, no cluster, no network. It starts the emulator of Key
// Vault and Entra ID and the driver against it, and calls the driver as kubelet would. Beside it runs a program that asks as the Azure
// provider for the Secrets Store CSI Driver does (test/bench/plain), for the figures.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// inside marks the process that runs in namespaces of its own.
const inside = "KEYVAULT_CSI_DEMO_INSIDE"

const seedText = `
tenants:
- id: ` + kubelet.Tenant + `
  applications:
  - clientID: ` + kubelet.Client + `
    objectID: 22222222-0000-0000-0000-000000000000
    secrets: [{value: demo}]
    federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}]
vaults:
- name: contoso
  tenant: ` + kubelet.Tenant + `
  grants: [{clientID: ` + kubelet.Client + `, permissions: ["*"]}]
  secrets:
  - {name: db-password, value: "correct horse battery staple"}
  - {name: api-key, value: "k-1234567890"}
  certificates:
  - {name: shop-tls, subject: shop.example.com, chain: 1, keyType: EC}
latency: 20ms
`

const classText = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: shop, namespace: default}
spec:
  provider: azure
  parameters:
    keyvaultName: contoso
    tenantID: ` + kubelet.Tenant + `
    clientID: ` + kubelet.Client + `
    staleIfError: 1h
    objects: "array: ['{objectName: db-password, objectType: secret}', '{objectName: shop-tls, objectType: secret}']"
`

func main() {
	if len(os.Args) != 3 {
		fail(errors.New("usage: demo DRIVER-BINARY PLAIN-BINARY"))
	}
	if os.Getenv(inside) == "" {
		fail(enter())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fail(run(ctx, os.Args[1], os.Args[2]))
}

func fail(err error) {
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// enter runs this program again in a mount namespace of its own, so that no mount is left behind; as an ordinary user, in
// a user namespace too, where mounting is allowed.
func enter() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx,gosec // this program, which ends with its child
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run in a mount namespace (as an ordinary user this needs unprivileged user namespaces): %w", err)
	}
	return nil
}

// demo is what runs.
type demo struct {
	dir      string
	binary   string
	emulator *emulator.Server
	issuer   *emulatortest.Issuer
	// node is the driver, plain the program that asks as the provider does.
	node, plain csi.NodeClient
	screen      screen
}

func run(ctx context.Context, binary, plain string) (err error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	d := &demo{binary: binary, screen: newScreen(os.Stdout, os.Getenv)}
	if d.dir, err = os.MkdirTemp("", "keyvault-csi-demo-"); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	if err := d.startEmulator(); err != nil { //nolint:contextcheck // the emulator has a life of its own
		return err
	}
	defer func() { err = errors.Join(err, d.emulator.Close()) }()
	stop, err := d.startPrograms(ctx, plain)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.first, d.second, d.rotation, d.outage, d.mistake, d.end} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startEmulator() error {
	d.screen.title("keyvault-csi: Pods read what is in a Key Vault. No Azure and no cluster here, about 10 seconds.")
	seed, err := emulator.ParseSeed([]byte(seedText))
	if err != nil {
		return err
	}
	if d.issuer, err = emulatortest.NewIssuer("https://oidc.example.com/cluster/"); err != nil {
		return err
	}
	seed.Issuers = []emulator.Issuer{{Issuer: d.issuer.URL, PublicKey: d.issuer.PublicKey()}}
	if d.emulator, err = emulator.New(emulator.Options{Seed: seed}); err != nil {
		return err
	}
	if err := d.emulator.Start("127.0.0.1:0"); err != nil {
		return err
	}
	d.screen.say("An emulator answers as contoso.vault.azure.net and login.microsoftonline.com over TLS, 20 ms away. In")
	d.screen.say("brackets: a program that asks as the Azure provider of the Secrets Store CSI Driver does, for the same Pod.")
	return nil
}

// environment leads a program to the emulator, as the client whose secret the emulator knows.
func (d *demo) environment() []string {
	proxy := d.emulator.ProxyURL().String()
	return append(os.Environ(), "HTTPS_PROXY="+proxy, "HTTP_PROXY="+proxy, "NO_PROXY=", "SSL_CERT_FILE="+filepath.Join(d.dir, "ca.pem"),
		"AZURE_TENANT_ID="+kubelet.Tenant, "AZURE_CLIENT_ID="+kubelet.Client, "AZURE_CLIENT_SECRET=demo")
}

// startPrograms runs both programs before the same classes. The returned function stops what was started, after an error too.
func (d *demo) startPrograms(ctx context.Context, plain string) (stop func() error, err error) {
	var stops []func() error
	stop = func() (err error) {
		for _, s := range stops {
			err = errors.Join(err, s())
		}
		return err
	}
	classes := filepath.Join(d.dir, "classes")
	if err := errors.Join(os.WriteFile(filepath.Join(d.dir, "ca.pem"), d.emulator.CAPEM(), 0o600), os.Mkdir(classes, 0o750), d.class("shop", classText)); err != nil {
		return stop, fmt.Errorf("prepare: %w", err)
	}
	start := func(name, program string, args ...string) (csi.NodeClient, error) {
		socket := filepath.Join(d.dir, name+".sock")
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "SOCKET", socket)
		}
		log, err := os.Create(filepath.Join(d.dir, name+".log")) //nolint:gosec // the demo's own
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		cmd := exec.Command(program, args...) //nolint:gosec,noctx // built programs
		cmd.Env, cmd.Stderr, cmd.SysProcAttr = d.environment(), log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
		}
		stops = append(stops, func() error { return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), log.Close()) })
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		stops = append([]func() error{conn.Close}, stops...)
		if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
			return nil, fmt.Errorf("%s does not answer: %w", name, err)
		}
		return csi.NewNodeClient(conn), nil
	}
	if d.node, err = start("driver", d.binary, "driver", "--endpoint", "unix://SOCKET", "--node-id", "demo", "--kubelet-dir", d.dir,
		"--classes", classes, "--rotation-interval", "2s", "--cache-ttl", "2s", "--http-addr", "", "--admin-addr", ""); err != nil {
		return stop, err
	}
	d.plain, err = start("plain", plain, "SOCKET", classes)
	return stop, err
}

// class writes a class for both programs: the driver reads YAML and JSON, the other one JSON of the same name.
func (d *demo) class(name, text string) error {
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return fmt.Errorf("class: %w", err)
	}
	return os.WriteFile(filepath.Join(d.dir, "classes", name+".json"), data, 0o600)
}

func (d *demo) first(ctx context.Context) error {
	d.screen.heading("A class says what a Pod gets")
	for line := range strings.Lines(classText) {
		d.screen.quote(strings.TrimSuffix(line, "\n"))
	}
	d.screen.heading("A Pod starts: kubelet calls the driver, with a token of the Pod's service account")
	if err := d.start(ctx, "pod-a"); err != nil {
		return err
	}
	return d.tree("pod-a")
}

func (d *demo) second(ctx context.Context) error {
	d.screen.heading("A second Pod of the same service account: what is known is not asked for again")
	return d.start(ctx, "pod-b")
}

// start mounts the shop's volume for a Pod with both programs, and says what each took.
func (d *demo) start(ctx context.Context, pod string) error {
	took, err := d.publish(ctx, d.node, pod, "shop")
	if err != nil {
		return err
	}
	own := d.requests()
	asProvider, err := d.publish(ctx, d.plain, "as-provider-"+pod, "shop")
	if err != nil {
		return err
	}
	d.screen.good("files after %s, %s", milliseconds(took), own)
	d.screen.aside("%s, %s: %.0f times as long", milliseconds(asProvider), d.requests(), asProvider.Seconds()/took.Seconds())
	return nil
}

func (d *demo) rotation(ctx context.Context) error {
	d.screen.heading("db-password changes in the vault; the driver looks every 2 s here")
	const value = "a new one"
	if _, err := d.emulator.SetSecret("contoso", emulator.Secret{Name: "db-password", Value: value}); err != nil {
		return err
	}
	_ = d.requests()
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for _, pod := range []string{"pod-a", "pod-b"} {
		for d.read(pod, "db-password") != value {
			select {
			case <-look.C:
			case <-ctx.Done():
				return fmt.Errorf("the change did not arrive: %w", ctx.Err())
			}
		}
	}
	d.screen.good("after %.1f s both Pods read %q: %s for both together", time.Since(start).Seconds(), value, d.requests())
	return nil
}

func (d *demo) outage(ctx context.Context) error {
	d.screen.heading("The vault goes away")
	d.emulator.AddFault(emulator.Fault{Host: "contoso.vault.azure.net", Kind: emulator.FaultStatus, Status: 503, Code: "ServiceUnavailable"})
	defer d.emulator.ClearFaults()
	refused, cancel := context.WithTimeout(ctx, 3*time.Second) // its retries would take longer
	defer cancel()
	if _, err := d.publish(refused, d.plain, "as-provider-pod-c", "shop"); err == nil {
		return errors.New("the vault still answers")
	}
	took, err := d.publish(ctx, d.node, "pod-c", "shop")
	if err != nil {
		return err
	}
	d.screen.good("the Pods keep their files (db-password is %q), and a third one starts after %s", d.read("pod-a", "db-password"), milliseconds(took))
	d.screen.say("with the last known values, because its class says staleIfError: 1h; status and events say that it did")
	d.screen.aside("the third Pod does not start")
	return nil
}

func (d *demo) mistake(ctx context.Context) error {
	d.screen.heading("A class with a mistake: what the Pod's event says, and what check finds")
	broken := strings.NewReplacer("name: shop,", "name: broken,", "objectName: db-password", "objectName: db-pasword").Replace(classText)
	if err := d.class("broken", broken); err != nil {
		return err
	}
	_, err := d.publish(ctx, d.node, "pod-d", "broken")
	if err == nil {
		return errors.New("a class with a missing secret was mounted")
	}
	d.screen.bad("%s: %s", status.Code(err), status.Convert(err).Message())
	d.screen.command("keyvault-csi check -f broken.yaml")
	cmd := exec.CommandContext(ctx, d.binary, "check", "-f", filepath.Join(d.dir, "classes", "broken.json")) //nolint:gosec // the built driver
	cmd.Env = d.environment()
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		return fmt.Errorf("check found nothing wrong: %s %w", out, err)
	}
	for _, line := range steps(string(out)) {
		d.screen.quote(line)
	}
	return nil
}

// steps are the lines of check's table without the details of what is ok.
func steps(out string) (lines []string) {
	ok := false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		status, _, _ := strings.Cut(line, " ")
		switch {
		case strings.TrimSpace(line) == "" || status == "STATUS":
		case strings.HasPrefix(line, "default/"):
		case status != "":
			ok = status == "ok"
			lines = append(lines, line)
		case !ok:
			lines = append(lines, line)
		}
	}
	return lines
}

func (d *demo) end(ctx context.Context) error {
	for _, pod := range []string{"pod-a", "pod-b", "pod-c"} {
		if _, err := d.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
			VolumeId: "csi-" + pod, TargetPath: kubelet.Target(d.dir, pod),
		}); err != nil {
			return fmt.Errorf("unpublish: %w", err)
		}
		if _, err := os.Stat(kubelet.Target(d.dir, pod)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is left behind: %w", pod, err)
		}
	}
	d.screen.heading("The Pods end; no mount and no file is left. Next:")
	d.screen.say("your class:  bin/keyvault-csi validate -f class.yaml, then check and preview with your az login")
	d.screen.say("a cluster:   README.md, \"In a cluster\"; with kind and the emulator you need no Azure")
	d.screen.say("from the Secrets Store CSI Driver:  docs/migration.md; in figures: docs/comparison.md, make bench")
	return nil
}

func (d *demo) publish(ctx context.Context, node csi.NodeClient, pod, class string) (time.Duration, error) {
	target := kubelet.Target(d.dir, pod)
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return 0, fmt.Errorf("pod directory: %w", err)
	}
	tokens := kubelet.Tokens(d.issuer, "default", "app", time.Hour)
	start := time.Now()
	_, err := node.NodePublishVolume(ctx, kubelet.PublishRequest(target, pod, class, tokens))
	return time.Since(start), err
}

// requests says what reached the vault and Entra ID since the last call.
func (d *demo) requests() string {
	counts := d.emulator.Counts()
	d.emulator.ResetRequests()
	all := 0
	for _, count := range counts {
		all += count
	}
	if all == 1 {
		return "1 request"
	}
	return fmt.Sprintf("%d requests", all)
}

func (d *demo) read(pod, path string) string {
	data, err := os.ReadFile(filepath.Join(kubelet.Target(d.dir, pod), path)) //nolint:gosec // the demo's own file
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// tree shows the volume as the pod sees it.
func (d *demo) tree(pod string) error {
	target := kubelet.Target(d.dir, pod)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 5 && fields[4] == target {
			_, super, _ := strings.Cut(line, " - ")
			d.screen.say("mount: %s %s", fields[5], strings.TrimSpace(super))
		}
	}
	for _, path := range []string{"db-password", "shop-tls"} {
		info, err := os.Stat(filepath.Join(target, path))
		if err != nil {
			return fmt.Errorf("file: %w", err)
		}
		content := d.read(pod, path)
		if first, rest, more := strings.Cut(content, "\n"); more {
			content = fmt.Sprintf("%s … (%d more lines)", first, strings.Count(rest, "\n"))
		}
		d.screen.say("%s  %-12s %5d bytes  %s", info.Mode(), path, info.Size(), content)
	}
	return nil
}

func milliseconds(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
}

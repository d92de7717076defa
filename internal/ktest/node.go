package ktest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// node is one broker that is also a controller.
type node struct {
	dir            string
	clientPort     int
	innerPort      int // Mutual TLS, 0 for Plaintext.
	doorPort       int // 0 without Doors.
	controllerPort int
	proc           *Process // Nil until first started.
}

func (n *node) dataDir() string    { return filepath.Join(n.dir, "data") }
func (n *node) configFile() string { return filepath.Join(n.dir, "server.properties") }
func (n *node) logFile() string    { return filepath.Join(n.dir, "server.log") }

func (n *node) running() bool { return n.proc != nil && n.proc.running() }

// makeNodes reserves ports and writes the configurations.
func (c *Cluster) makeNodes() error {
	for i := range c.opts.Brokers {
		n := &node{dir: filepath.Join(c.dir, "broker-"+strconv.Itoa(i))}
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return fmt.Errorf("make broker directory: %w", err)
		}
		ports := []*int{&n.clientPort, &n.controllerPort}
		if c.opts.Security == SASLSSL {
			ports = append(ports, &n.innerPort)
		}
		if len(c.opts.Doors) > 0 {
			ports = append(ports, &n.doorPort)
		}
		if len(c.opts.Ports) > 0 {
			n.clientPort, ports = c.opts.Ports[i], ports[1:]
		}
		for _, p := range ports {
			port, err := c.ports.take()
			if err != nil {
				return err
			}
			*p = port
		}
		c.nodes = append(c.nodes, n)
	}
	for i, n := range c.nodes {
		if err := os.WriteFile(n.configFile(), renderProperties(c.properties(i)), 0o600); err != nil {
			return fmt.Errorf("write configuration of broker %d: %w", i, err)
		}
	}
	return nil
}

// properties returns server.properties of broker i. What is small here is
// small for speed: fewer threads, fewer internal partitions. Whatever changes
// how clients see the broker keeps Kafka's default.
func (c *Cluster) properties(i int) map[string]string {
	n, total := c.nodes[i], len(c.nodes)
	voters := make([]string, total)
	for j, v := range c.nodes {
		voters[j] = fmt.Sprintf("%d@%s", j+1, loopback(v.controllerPort))
	}
	replicas, minISR := strconv.Itoa(min(3, total)), strconv.Itoa(min(2, total))
	p := map[string]string{
		"process.roles":                            "broker,controller",
		"node.id":                                  strconv.Itoa(i + 1),
		"controller.quorum.voters":                 strings.Join(voters, ","),
		"controller.listener.names":                "CONTROLLER",
		"log.dirs":                                 n.dataDir(),
		"num.network.threads":                      "2",
		"num.io.threads":                           "4",
		"background.threads":                       "4",
		"num.recovery.threads.per.data.dir":        "1",
		"default.replication.factor":               replicas,
		"min.insync.replicas":                      minISR,
		"offsets.topic.num.partitions":             "5",
		"offsets.topic.replication.factor":         replicas,
		"transaction.state.log.num.partitions":     "5",
		"transaction.state.log.replication.factor": replicas,
		"transaction.state.log.min.isr":            minISR,
		// A killed broker may come back, and its partitions get new leaders, only
		// after its session ended: 9 s by default.
		"broker.session.timeout.ms":    "4000",
		"broker.heartbeat.interval.ms": "1000",
		// The default of 128 MiB is allocated at the start and would not fit.
		"log.cleaner.dedupe.buffer.size": "8388608",
		"log.cleaner.io.buffer.size":     "131072",
	}
	if c.opts.Version != Oldest {
		p["share.coordinator.state.topic.num.partitions"] = "5"
		p["share.coordinator.state.topic.replication.factor"] = replicas
		p["share.coordinator.state.topic.min.isr"] = minISR
	}
	maps.Copy(p, c.listeners(n))
	if len(c.opts.Doors) > 0 {
		addDoor(p, n, c.opts.Doors[i])
	}
	maps.Copy(p, c.opts.Properties)
	return p
}

// addDoor adds the listener of a door, which is like the first one but sends its
// clients to another address.
func addDoor(p map[string]string, n *node, addr string) {
	protocol, _, _ := strings.Cut(p["listeners"], "://")
	p["listeners"] += ",DOOR://" + loopback(n.doorPort)
	p["advertised.listeners"] += ",DOOR://" + addr
	p["listener.security.protocol.map"] += ",DOOR:" + protocol
	first := "listener.name." + strings.ToLower(protocol) + "."
	for k, v := range maps.Clone(p) {
		if rest, ok := strings.CutPrefix(k, first); ok {
			p["listener.name.door."+rest] = v
		}
	}
}

func (c *Cluster) listeners(n *node) map[string]string {
	if c.opts.Security == Plaintext {
		return map[string]string{
			"listeners":                      fmt.Sprintf("PLAINTEXT://%s,CONTROLLER://%s", loopback(n.clientPort), loopback(n.controllerPort)),
			"advertised.listeners":           "PLAINTEXT://" + loopback(n.clientPort),
			"inter.broker.listener.name":     "PLAINTEXT",
			"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		}
	}
	a := c.auth
	return map[string]string{
		"listeners": fmt.Sprintf("SASL_SSL://%s,SSL://%s,CONTROLLER://%s",
			loopback(n.clientPort), loopback(n.innerPort), loopback(n.controllerPort)),
		"advertised.listeners":                     fmt.Sprintf("SASL_SSL://%s,SSL://%s", loopback(n.clientPort), loopback(n.innerPort)),
		"inter.broker.listener.name":               "SSL",
		"listener.security.protocol.map":           "SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SSL",
		"ssl.keystore.type":                        "PEM",
		"ssl.keystore.location":                    brokerKeyStore(c.dir),
		"ssl.truststore.type":                      "PEM",
		"ssl.truststore.location":                  a.CAFile,
		"ssl.principal.mapping.rules":              "RULE:^CN=([^,]*).*$/$1/,DEFAULT",
		"listener.name.ssl.ssl.client.auth":        "required",
		"listener.name.controller.ssl.client.auth": "required",
		"sasl.enabled.mechanisms":                  "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.sasl_ssl.plain.sasl.jaas.config": fmt.Sprintf(
			`org.apache.kafka.common.security.plain.PlainLoginModule required user_%s="%s" user_%s="%s";`,
			a.AdminUser, a.AdminPassword, a.ClientUser, a.ClientPassword),
		"listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"authorizer.class.name":                                 "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                                           "User:" + a.AdminUser + ";User:broker",
	}
}

// renderProperties writes a Java properties file in a stable order. A
// backslash would start an escape there.
func renderProperties(p map[string]string) []byte {
	var b bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", k, strings.ReplaceAll(p[k], `\`, `\\`))
	}
	return b.Bytes()
}

// format runs the storage tool for the first broker and copies the result to
// the others: only node and directory id differ, and a JVM costs a second.
func (c *Cluster) format(ctx context.Context) error {
	args := []string{"format", "-t", c.id, "-c", c.nodes[0].configFile()}
	for _, name := range slices.Sorted(maps.Keys(c.opts.Features)) {
		args = append(args, "--feature", fmt.Sprintf("%s=%d", name, c.opts.Features[name]))
	}
	if a := c.auth; a != nil {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			for _, u := range [][2]string{{a.AdminUser, a.AdminPassword}, {a.ClientUser, a.ClientPassword}} {
				args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, u[0], u[1]))
			}
		}
	}
	if _, err := c.runJava(ctx, c.jars, c.classes.finished(), "kafka.tools.StorageTool", args...); err != nil {
		return err
	}
	for i, n := range c.nodes[1:] {
		if err := os.CopyFS(n.dataDir(), os.DirFS(c.nodes[0].dataDir())); err != nil {
			return fmt.Errorf("copy formatted storage: %w", err)
		}
		var id [16]byte
		rand.Read(id[:])
		meta := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n",
			c.id, i+2, base64.RawURLEncoding.EncodeToString(id[:]))
		if err := os.WriteFile(filepath.Join(n.dataDir(), "meta.properties"), []byte(meta), 0o600); err != nil {
			return fmt.Errorf("write storage id: %w", err)
		}
	}
	return nil
}

// javaArgs are the flags that make a JVM start fast and stay small.
func (c *Cluster) javaArgs(heapMB int, jars string, classes archives) []string {
	return append(classes.args(),
		fmt.Sprintf("-Xmx%dm", heapMB), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-XX:-UsePerfData", "-Djava.awt.headless=true",
		// Each logging binding reads only its own option.
		"-Dlog4j2.configurationFile="+filepath.Join(c.dir, "log4j2.properties"),
		"-Dlog4j.configuration=file:"+filepath.Join(c.dir, "log4j.properties"),
		"-cp", filepath.Join(jars, "*"),
	)
}

// runJava runs a main class to its end and returns what it printed.
func (c *Cluster) runJava(ctx context.Context, jars string, classes archives, mainClass string, args ...string) (string, error) {
	return c.runJavaInput(ctx, "", jars, classes, mainClass, args...)
}

func (c *Cluster) runJavaInput(ctx context.Context, input, jars string, classes archives, mainClass string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.java, append(append(c.javaArgs(256, jars, classes), mainClass), args...)...)
	cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s: %w: %s", mainClass, err, firstLines(string(out), 10))
	}
	return string(out), nil
}

func (c *Cluster) launch(i int) error {
	n := c.nodes[i]
	args := append(c.javaArgs(c.opts.HeapMB, c.jars, c.classes), "kafka.Kafka", n.configFile())
	p, err := startProcess(c.starter, n.dir, n.logFile(), c.java, args...)
	if err != nil {
		return fmt.Errorf("start broker %d: %w", i, err)
	}
	n.proc = p
	return nil
}

// DataDir returns the log directory of broker i.
func (c *Cluster) DataDir(i int) string { return c.nodes[i].dataDir() }

// LogFile returns the file that broker i logs to.
func (c *Cluster) LogFile(i int) string { return c.nodes[i].logFile() }

// Process returns the process of broker i as it was started last.
func (c *Cluster) Process(i int) *Process { return c.nodes[i].proc }

// KillBroker ends broker i with SIGKILL.
func (c *Cluster) KillBroker(i int) error { return c.nodes[i].proc.Kill() }

// StopBroker ends broker i with SIGTERM (a controlled shutdown). It is killed,
// and that is an error, when it takes longer than 30 seconds.
func (c *Cluster) StopBroker(i int) error { return c.nodes[i].proc.Stop() }

// StartBroker starts broker i again on its ports and data and returns when it
// answers and lists itself.
func (c *Cluster) StartBroker(ctx context.Context, i int) error {
	if c.nodes[i].running() {
		return fmt.Errorf("start broker %d: it is running", i)
	}
	if err := c.launch(i); err != nil {
		return err
	}
	return c.waitReady(ctx, i, []int32{int32(i + 1)})
}

// PauseBroker stops the process of broker i with SIGSTOP: connections stay
// open and nothing answers.
func (c *Cluster) PauseBroker(i int) error { return c.nodes[i].proc.Pause() }

// ResumeBroker continues a paused broker.
func (c *Cluster) ResumeBroker(i int) error { return c.nodes[i].proc.Resume() }

// writeLogConfig writes the configurations of both logging bindings.
func writeLogConfig(dir string) error {
	const log4j2 = "status = error\n" +
		"appender.out.type = Console\n" +
		"appender.out.name = out\n" +
		"appender.out.layout.type = PatternLayout\n" +
		"appender.out.layout.pattern = [%d] %p %m (%c)%n\n" +
		"rootLogger.level = info\n" +
		"rootLogger.appenderRef.out.ref = out\n"
	const log4j = "log4j.rootLogger=INFO, out\n" +
		"log4j.appender.out=org.apache.log4j.ConsoleAppender\n" +
		"log4j.appender.out.layout=org.apache.log4j.PatternLayout\n" +
		"log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n\n"
	for name, text := range map[string]string{"log4j2.properties": log4j2, "log4j.properties": log4j} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write log configuration: %w", err)
		}
	}
	return nil
}

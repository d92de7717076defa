package ktest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Tool runs a console tool, for example org.apache.kafka.tools.TopicCommand,
// and returns what it printed. Classes of the broker (kafka.*) run with the
// broker's jars; all others with the newest published tools, which speak to
// every supported version.
func (c *Cluster) Tool(ctx context.Context, mainClass string, args ...string) (string, error) {
	return c.ToolInput(ctx, "", mainClass, args...)
}

// ToolInput is Tool for one that reads from its standard input.
func (c *Cluster) ToolInput(ctx context.Context, input, mainClass string, args ...string) (string, error) {
	if strings.HasPrefix(mainClass, "kafka.") {
		return c.runJavaInput(ctx, input, c.jars, c.classes, mainClass, args...)
	}
	jars, err := resolveJars(ctx, toolsSet)
	if err != nil {
		return "", err
	}
	classes, err := findArchive(ctx, c.java, jars, func(ctx context.Context, path string) error {
		return c.dumpTool(ctx, jars, path)
	})
	if err != nil {
		return "", err
	}
	return c.runJavaInput(ctx, input, jars, classes, mainClass, args...)
}

// dumpTool runs a tool that loads what all of them need, and leaves its archive at
// path.
func (c *Cluster) dumpTool(ctx context.Context, jars, path string) error {
	config, err := c.AdminConfigFile()
	if err != nil {
		return err
	}
	_, err = c.runJava(ctx, jars, archives{path, true}, "org.apache.kafka.tools.TopicCommand",
		"--bootstrap-server", c.BootstrapServers()[0], "--command-config", config, "--list")
	return err
}

// AdminConfigFile writes a client configuration for Java tools
// (--command-config) that may do everything, and returns its path.
func (c *Cluster) AdminConfigFile() (string, error) {
	user, password := "", ""
	if a := c.auth; a != nil {
		user, password = a.AdminUser, a.AdminPassword
	}
	return c.configFile("admin", user, password)
}

// ClientConfigFile is AdminConfigFile for the user who may do what it was granted.
func (c *Cluster) ClientConfigFile() (string, error) {
	user, password := "", ""
	if a := c.auth; a != nil {
		user, password = a.ClientUser, a.ClientPassword
	}
	return c.configFile("client", user, password)
}

func (c *Cluster) configFile(name, user, password string) (string, error) {
	p := map[string]string{"security.protocol": "PLAINTEXT"}
	if a := c.auth; a != nil {
		p = map[string]string{
			"security.protocol":       "SASL_SSL",
			"sasl.mechanism":          "PLAIN",
			"ssl.truststore.type":     "PEM",
			"ssl.truststore.location": a.CAFile,
			"sasl.jaas.config": fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required username="%s" password="%s";`,
				user, password),
		}
	}
	path := filepath.Join(c.dir, name+".properties")
	if err := os.WriteFile(path, renderProperties(p), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration of the user %s: %w", name, err)
	}
	return path, nil
}

// MirrorMakerOptions describes a MirrorMaker 2 process.
type MirrorMakerOptions struct {
	// Properties are the lines of mm2.properties.
	Properties map[string]string
	// HeapMB is the maximum heap in MiB, 1024 if 0.
	HeapMB int
	// Dir holds configuration and log. A new temporary directory if empty.
	// It is left in place.
	Dir string
	// JavaArgs are added to the command line before the main class.
	JavaArgs []string
}

// MirrorMaker starts MirrorMaker 2 with the optimising compiler and the
// default collector, because it is there to be measured. The caller ends it
// with Stop or Kill.
func MirrorMaker(ctx context.Context, o MirrorMakerOptions) (*Process, error) {
	java, err := javaPath()
	if err != nil {
		return nil, fmt.Errorf("find java: %w", err)
	}
	jars, err := resolveJars(ctx, toolsSet)
	if err != nil {
		return nil, err
	}
	dir := o.Dir
	if dir == "" {
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, "mirrormaker-"+rand.Text())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make MirrorMaker directory: %w", err)
	}
	if err := writeLogConfig(dir); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "mm2.properties")
	if err := os.WriteFile(config, renderProperties(o.Properties), 0o600); err != nil {
		return nil, fmt.Errorf("write MirrorMaker configuration: %w", err)
	}
	heap := o.HeapMB
	if heap == 0 {
		heap = 1024
	}
	args := []string{
		fmt.Sprintf("-Xmx%dm", heap), "-Djava.awt.headless=true",
		"-Dlog4j2.configurationFile=" + filepath.Join(dir, "log4j2.properties"), "-cp", filepath.Join(jars, "*"),
	}
	args = append(args, o.JavaArgs...)
	args = append(args, "org.apache.kafka.connect.mirror.MirrorMaker", config)
	return StartProcess(dir, filepath.Join(dir, "mirrormaker.log"), java, args...)
}

// AwaitLog returns when the process has printed text, with an error when it
// ends before that.
func (p *Process) AwaitLog(ctx context.Context, text string) error {
	return poll(ctx, func() error {
		raw, err := os.ReadFile(p.logPath)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if strings.Contains(string(raw), text) {
			return nil
		}
		if !p.running() {
			return errors.Join(errStop, fmt.Errorf("process ended: %w\n%s", p.waitErr, logTail(p.logPath)))
		}
		return fmt.Errorf("log does not hold %q", text)
	})
}

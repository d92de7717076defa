package config

import "github.com/anabranch/anabranch/internal/kclient"

// ClientOptions returns how to reach a cluster. The caller adds what is not in
// the file: logger, client id, hooks. ok is false for an unknown name.
func (c *Config) ClientOptions(cluster string) (o kclient.Options, ok bool) {
	cl, ok := c.Clusters[cluster]
	if !ok {
		return kclient.Options{}, false
	}
	o = kclient.Options{Name: cluster, BootstrapServers: cl.BootstrapServers}
	reach(&o, cl.TLS, cl.SASL)
	return o, true
}

// CanaryOptions returns how the canary of a pair reaches a cluster; ok is false
// where the pair has none there.
func (c *Config) CanaryOptions(pair, cluster string) (o kclient.Options, ok bool) {
	canary, ok := c.Pairs[pair].Canary[cluster]
	if !ok {
		return kclient.Options{}, false
	}
	cl := c.Clusters[cluster]
	o = kclient.Options{Name: cluster, BootstrapServers: cl.BootstrapServers}
	if canary.TLS == nil {
		canary.TLS = cl.TLS
	}
	reach(&o, canary.TLS, canary.SASL)
	return o, true
}

// reach fills in how a client encrypts and authenticates.
func reach(o *kclient.Options, t *TLS, s *SASL) {
	if t != nil {
		o.TLS = &kclient.TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	}
	if s != nil {
		o.SASL = &kclient.SASL{Mechanism: s.Mechanism, Username: s.Username, Password: s.Password}
		if a := s.OAuth; a != nil {
			o.SASL.OAuth = kclient.OAuth{TokenURL: a.TokenURL, ClientID: a.ClientID, ClientSecret: a.ClientSecret, Scope: a.Scope, CAFile: a.CAFile}
		}
		if a := s.AWS; a != nil {
			o.SASL.AWS = kclient.AWS{AccessKey: a.AccessKey, SecretKey: a.SecretKey, SessionToken: a.SessionToken, CredentialsFile: a.CredentialsFile, Profile: a.Profile}
		}
	}
}

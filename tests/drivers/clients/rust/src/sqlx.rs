//! sqlx with its own pool, as it is by default: see scenario.py. It prepares each statement once for a connection, and cleans
//! nothing when that comes back.

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Acquire, Executor, PgPool, Postgres, Transaction};
use std::error::Error;

const CARRIERS: [(&str, &str); 3] = [("alice", "UA"), ("bob", "AA"), ("carol", "DL")];
const PRESENT: &str = "SELECT set_config('bodata.impersonation_token', $1, true)";
const SEEN: &str = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > $1";
const STATE: &str = "SELECT current_user::text, current_setting('work_mem'), nullif(current_setting('app.left', true), ''), \
                     to_regclass('pg_temp.left_behind')::text";
const DIVIDE: &str = "SELECT 1 / (count(*) - count(*)) FROM app.orders";
const TRANSACTIONS: usize = 200;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn code(error: &(dyn Error + 'static)) -> Option<String> {
    Some(error.downcast_ref::<sqlx::Error>()?.as_database_error()?.code()?.into_owned())
}

fn check(holds: bool, what: impl Into<String>) -> Done {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

async fn open(given: &Value) -> Done<PgPool> {
    let said = |name: &str| given["where"][name].as_str().unwrap_or_default();
    let options = PgConnectOptions::new()
        .host(said("host"))
        .port(given["where"]["port"].as_u64().unwrap_or_default() as u16)
        .username(said("user"))
        .password(said("password"))
        .database(said("dbname"));
    Ok(PgPoolOptions::new().max_connections(2).connect_with(options).await?)
}

async fn seen(on: &mut Transaction<'_, Postgres>, carrier: &str) -> Done {
    let (low, high, count): (String, String, i64) = sqlx::query_as(SEEN).bind(0i32).fetch_one(&mut **on).await?;
    check((&*low, &*high, count) == (carrier, carrier, 10), format!("{carrier} sees {low} {high} {count}"))
}

async fn work(on: &mut Transaction<'_, Postgres>, number: usize, user: &str, carrier: &str, token: &str) -> Done {
    sqlx::query(PRESENT).bind(token).execute(&mut **on).await?;
    seen(on, carrier).await?;
    let state: (String, String, Option<String>, Option<String>) = sqlx::query_as(STATE).fetch_one(&mut **on).await?;
    check(state == (user.into(), "4MB".into(), None, None), format!("{state:?}"))?;
    match number % 10 {
        1 => {
            let mut nested = on.begin().await?;
            sqlx::query("INSERT INTO app.orders (carrier) VALUES ($1)").bind(carrier).execute(&mut *nested).await?;
            let error = nested.execute(DIVIDE).await.err().ok_or("divided by zero")?;
            check(code(&error).as_deref() == Some("22012"), format!("{error}"))?;
            nested.rollback().await?;
        }
        3 => drop(sqlx::query(DIVIDE).fetch_all(&mut **on).await?),
        5 => {
            on.execute("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)").await?;
            on.execute("CREATE TEMP TABLE left_behind (a int)").await?;
        }
        7 => {
            let insert = "INSERT INTO app.orders (carrier, note) VALUES ($1, 'mine')";
            sqlx::query(insert).bind(carrier).execute(&mut **on).await?;
            sqlx::query("DELETE FROM app.orders WHERE note = $1").bind("mine").execute(&mut **on).await?;
        }
        9 if number % 50 == 49 => {
            // It sends no cancel requests.
            on.execute("SET LOCAL statement_timeout = '50ms'").await?;
            on.execute("SELECT pg_sleep(20)").await?;
        }
        _ => {}
    }
    seen(on, carrier).await
}

async fn transaction(pool: &PgPool, number: usize, given: &Value) -> Done {
    let (user, carrier) = CARRIERS[number % 3];
    let token = given["tokens"][user].as_str().ok_or("no token")?;
    let mut on = pool.begin().await?;
    work(&mut on, number, user, carrier, token).await?;
    Ok(on.commit().await?)
}

async fn some(pool: PgPool, given: Value, numbers: impl Iterator<Item = usize>) -> Done {
    for number in numbers {
        let expected = if number % 10 == 3 {
            Some("22012")
        } else if number % 50 == 49 {
            Some("57014")
        } else {
            None
        };
        match (transaction(&pool, number, &given).await, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(state)) if code(&*error).as_deref() == Some(state) => {}
            (other, _) => return Err(format!("{number}: {other:?}").into()),
        }
        if number % 20 == 0 {
            let query = sqlx::query("SELECT count(*) FROM app.orders");
            let refused = query.fetch_one(&pool).await.err().ok_or("not refused")?;
            check(code(&refused).as_deref() == Some("42501"), format!("{refused}"))?;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let given: Value = serde_json::from_reader(std::io::stdin())?;
    for from in [0, TRANSACTIONS / 2] {
        let pool = open(&given).await?;
        let numbers = |first| (from + first..from + TRANSACTIONS / 2).step_by(2);
        let (one, other) = tokio::join!(
            some(pool.clone(), given.clone(), numbers(0)),
            some(pool.clone(), given.clone(), numbers(1))
        );
        one?;
        other?;
        pool.close().await;
    }
    println!("done {TRANSACTIONS}");
    Ok(())
}
